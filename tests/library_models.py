"""Models of timm and of Hugging Face's transformers, small and with dropout everywhere: made, never downloaded."""

from functools import partial

import torch
from noise_models import IMAGES, WORDS
from torch import nn


def timm_models():
    """Return models of timm, made without their weights."""
    import timm

    def make(name, **options):
        return partial(timm.create_model, name, num_classes=3, **options), IMAGES

    attention = {"img_size": 32, "drop_path_rate": 0.3, "proj_drop_rate": 0.2}
    return {
        "ViT": make(
            "vit_tiny_patch16_224",
            **attention,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=2,
            drop_rate=0.2,
            attn_drop_rate=0.2,
            pos_drop_rate=0.2,
            patch_drop_rate=0.25,
        ),
        "Swin": make(
            "swin_tiny_patch4_window7_224",
            **attention,
            window_size=4,
            embed_dim=12,
            depths=(1, 1),
            num_heads=(2, 2),
            attn_drop_rate=0.2,
        ),
        "BEiT": make("beit_base_patch16_224", **attention, depth=2, embed_dim=24, num_heads=2, attn_drop_rate=0.2),
        "CaiT": make("cait_xxs24_224", **attention, depth=2, embed_dim=24, num_heads=2, attn_drop_rate=0.2),
        "ConvNeXt": make("convnext_atto", drop_path_rate=0.3, drop_rate=0.2, depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)),
        "ResNet": make("resnet10t", drop_rate=0.2, drop_path_rate=0.3, drop_block_rate=0.2),
    }


def hugging_face_models():
    """Return classifiers of the transformers library, made from configurations."""
    import transformers as hf

    class Logits(nn.Module):
        def __init__(self, make, config):
            super().__init__()
            self.net = make(config)

        def forward(self, x):
            return self.net(x).logits

    def model(make, config, x=WORDS):
        return partial(Logits, make, config), x

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    images = {"num_labels": 3, "image_size": 32}
    words = {**sizes, "vocab_size": 50, "max_position_embeddings": 32, "num_labels": 3, "pad_token_id": 0}
    ended = torch.cat([WORDS, torch.full((2, 1), 2)], 1)
    ends = {"eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, "forced_eos_token_id": 2}
    halves = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _HALF.items()}
    return {
        "BERT": model(hf.BertForSequenceClassification, hf.BertConfig(**words, attention_probs_dropout_prob=0.3)),
        "RoBERTa": model(hf.RobertaForSequenceClassification, hf.RobertaConfig(**{**words, "pad_token_id": 1})),
        "DistilBERT": model(
            hf.DistilBertForSequenceClassification,
            hf.DistilBertConfig(
                vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3, attention_dropout=0.3
            ),
        ),
        "ALBERT": model(
            hf.AlbertForSequenceClassification,
            hf.AlbertConfig(
                **words,
                embedding_size=16,
                hidden_dropout_prob=0.2,
                attention_probs_dropout_prob=0.2,
                bos_token_id=2,
                eos_token_id=3,
            ),
        ),
        "ELECTRA": model(hf.ElectraForSequenceClassification, hf.ElectraConfig(**words, embedding_size=16)),
        "GPT-2": model(
            hf.GPT2ForSequenceClassification,
            hf.GPT2Config(
                vocab_size=50,
                n_embd=16,
                n_layer=2,
                n_head=2,
                num_labels=3,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            ),
        ),
        "Llama": model(hf.LlamaForSequenceClassification, hf.LlamaConfig(**words, attention_dropout=0.3)),
        "T5": model(
            hf.T5ForSequenceClassification,
            hf.T5Config(
                vocab_size=50,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                num_labels=3,
                eos_token_id=2,
                pad_token_id=0,
                decoder_start_token_id=0,
            ),
            ended,
        ),
        "BART": model(
            hf.BartForSequenceClassification,
            hf.BartConfig(
                vocab_size=50, d_model=16, num_labels=3, attention_dropout=0.2, activation_dropout=0.2, **halves, **ends
            ),
            ended,
        ),
        "ViT": model(
            hf.ViTForImageClassification,
            hf.ViTConfig(**sizes, **images, patch_size=8, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3),
            IMAGES,
        ),
        "Swin": model(
            hf.SwinForImageClassification,
            hf.SwinConfig(
                **images,
                embed_dim=12,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=4,
                drop_path_rate=0.3,
                attention_probs_dropout_prob=0.2,
            ),
            IMAGES,
        ),
        "ConvNeXt": model(
            hf.ConvNextForImageClassification,
            hf.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, drop_path_rate=0.3),
            IMAGES,
        ),
    }


_HALF = {"layers": 2, "attention_heads": 2, "ffn_dim": 16, "layerdrop": 0.2}
