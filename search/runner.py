"""The runner: asks Optuna for configurations, drives the trainers, decides after each epoch who goes on, tells.

It alone asks and tells, prunes and reports; trainers only train. Writes to the storage happen in a thread of their own
(`Desk`), in the order in which they were decided, so that no trainer waits for them; configurations are asked for
one epoch ahead. With one trainer the whole search is therefore a function of spec and population alone: run twice, it
samples, prunes and ends the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from search.desk import Desk, results_of
from search.errors import RegsearchError, TrainerError
from search.judging import Judge
from search.newspaper import Newspaper
from search.posts import Post, Running, time_spent
from search.protocols import Crew, Trials, Watcher
from search.pruning import Pruner
from search.records import Assignment, EpochResult, News, Reason, TimeSpent, TrialRecord
from search.shortage import Shortage
from search.stopping import StopRequest
from search.trainers import KilledForMemory, OutOfMemory, Report, TrainerLost, TrainerStopped, wait_for_any
from search.weights import WeightStore

_ATTEMPTS = 3
_POLL_SECONDS = 0.2
_IDLE_SECONDS = 1.0
_T = TypeVar("_T")


class Runner:
    """One search: from the first question to the last answer, or to the request to stop."""

    def __init__(
        self,
        study: Trials,
        crew: Crew,
        pruner: Pruner,
        weights: WeightStore | None,
        watcher: Watcher,
        stop: StopRequest,
        started: float | None = None,
    ) -> None:
        """No weights are kept if `weights` is None; `started` is when the program was, by the monotonic clock."""
        self._study, self._crew = study, crew
        self._weights, self._watcher, self._stop = weights, watcher, stop
        self._judge = Judge(pruner, study.spec.training.max_epochs)
        self._posts = [Post(place, trainer) for place, trainer in enumerate(crew.trainers)]
        self._started = time.monotonic() if started is None else started
        self._looked = time.monotonic()
        self._shortage = Shortage(watcher.message)
        self._left_over: deque[Future[Assignment | None]] = deque()
        """Asked for a trainer that died before it could take them."""
        self._may_ask = True
        """Whether there may be configurations that nobody runs."""
        self._draining = False
        """Whether no more epochs are begun, since somebody has asked this process to leave."""
        self._reported: deque[Future[set[int]]] = deque()
        self._noticed: set[str] = set()
        self._recorded: deque[Future[TrialRecord | None]] = deque()
        self._desk = Desk()
        self._newspaper = Newspaper(self._desk, study)
        self.time_spent = TimeSpent(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        """Where the time went, once `run` has returned."""
        for record in study.records():
            self._judge.take_note(record)

    def run(self) -> None:
        """Search until the budget is used up or a stop is requested; then no trial is left running.

        Trainers that are in the middle of something are ended; the others are free for whoever made them.

        Raises TrainerError when trainers keep dying, StorageError when results cannot be stored.
        """
        try:
            self._search()
            self.time_spent = time_spent(self._posts, self._started, self._desk.seconds)
        except BaseException:
            # The first error is the one to show; what cannot be put back now is found by the next start.
            with suppress(Exception):
                self._leave()
            raise
        self._leave()

    def _search(self) -> None:
        while not self._stop():
            lacks = [] if self._draining else self._begin_all()
            busy = {id(post.trainer): post for post in self._posts if post.waiting}
            self._shortage.note(lacks, len(self._posts))
            if busy:
                self._collect(
                    [busy[id(ready)] for ready in wait_for_any([p.trainer for p in busy.values()], _POLL_SECONDS)]
                )
                self._look_for_hangs()
            elif self._draining:
                self._drain()
            elif self._left_over or any(post.asked for post in self._posts):
                time.sleep(_POLL_SECONDS if lacks else 0)
            elif self._is_over():
                return
            self._announce()

    def _begin_all(self) -> list[str]:
        """Start the next epoch of every trainer that can; return what the others lack."""
        lacks = []
        for post in list(self._posts):
            if post.waiting:
                continue
            if (lack := post.trainer.lacks) is None:
                self._begin(post)
            else:
                lacks.append(lack)
        return lacks

    def _drain(self) -> None:
        """Stop as was asked for, now that no epoch is under way, with checkpoints for whoever goes on."""
        for post in self._posts:
            free, post.to_free = post.to_free, []
            with suppress(TrainerLost, RegsearchError):  # whoever goes on has an earlier one, or begins anew
                post.trainer.checkpoint(free)
        self._stop.requested = True

    def _is_over(self) -> bool:
        """Return whether all trials have ended; if not, wait a moment for others to end theirs or to leave some."""
        unfinished = self._desk.submit("asking", self._study.unfinished)
        if self._has_come(unfinished) and unfinished.result() == 0:
            return True
        news = self._newspaper.fetch(_IDLE_SECONDS)
        if news is not None:
            self._take_in(news)
        return False

    def _begin(self, post: Post) -> None:
        """Start a trainer's next epoch, with the trials that were asked for while it ran the last one."""
        arrived = self._take_arrivals(post)
        self._ask_ahead(post)
        if not post.running:
            arrived = self._take_arrivals(post)
        if not post.running:
            return
        free, post.to_free, post.waiting, post.waited = post.to_free, [], True, 0.0
        try:
            post.trainer.begin(arrived, free)
        except TrainerLost as error:
            self._replace(post, error)
        except RegsearchError as error:
            self._give_up(post, error)

    def _take_arrivals(self, post: Post) -> list[Assignment]:
        """Let a trainer run what was asked for it and has come, waiting for it unless the storage is away."""
        arrived = []
        for future in list(post.asked):
            if not self._has_come(future):
                continue
            assignment = future.result()
            post.asked.remove(future)
            if assignment is None:
                self._may_ask = False
                continue
            # From here on it is put back into the queue, whatever goes wrong.
            post.running[assignment.number] = Running(assignment, str(post.place))
            arrived.append(assignment)
            self._watcher.started(assignment)
        if post.asked and not post.running:
            self._announce()
            time.sleep(_POLL_SECONDS)
        return arrived

    def _has_come(self, future: Future[_T]) -> bool:
        """Return whether the storage has answered; wait for it, unless it is away or a stop is requested."""
        while not future.done() and self._study.trouble is None and not self._stop():
            wait([future], _POLL_SECONDS)
        return future.done()

    def _ask_ahead(self, post: Post) -> None:
        while self._left_over and post.room > 0:
            post.asked.append(self._left_over.popleft())
        for _ in range(post.room if self._may_ask else 0):
            post.asked.append(self._desk.submit("asking", self._study.ask))

    def _collect(self, posts: Sequence[Post]) -> None:
        """Take in the epochs of trainers that are ready; the more there are, the fewer writes it takes."""
        reports = [(post, report) for post in posts if (report := self._receive(post)) is not None]
        results = [(number, result) for _, report in reports for number, result in report.results.items()]
        if reports:
            self._reported.append(self._desk.submit("recording", self._study.report, dict(results)))
        for post, report in reports:
            try:
                self._decide(post, report)
            except TrainerStopped:
                continue
            except TrainerLost as error:
                self._replace(post, error)
                continue
            if report.notice and report.notice not in self._noticed:
                self._noticed.add(report.notice)
                self._watcher.message(report.notice)
            self._watcher.epoch_ended(report)

    def _receive(self, post: Post) -> Report | None:
        """Return a trainer's epoch without trials that others have taken over meanwhile; None when it brought none."""
        try:
            report = post.trainer.collect()
        except TrainerStopped:
            return None
        except TrainerLost as error:
            self._replace(post, error)
            return None
        except RegsearchError as error:
            self._give_up(post, error)
            return None
        post.waiting = False
        post.take_time(report)
        for number in report.failed.keys() & post.running.keys():
            self._end(post.running.pop(number), Reason.ERROR, report.failed[number])
        if resumed := {number: rows for number, rows in report.resumed.items() if number in post.running}:
            self._resume(post, resumed)
        return replace(report, results={n: result for n, result in report.results.items() if n in post.running})

    def _resume(self, post: Post, resumed: Mapping[int, Sequence[EpochResult]]) -> None:
        """Take in what trials that go on from a checkpoint had reached before."""
        for number, rows in resumed.items():
            post.running[number].epochs.extend(rows)
        # The pruner learns of it; what it would say now was decided then: they went on.
        self._judge.pruned(post.running)
        for index in range(max(map(len, resumed.values()))):
            results = {number: rows[index] for number, rows in resumed.items() if index < len(rows)}
            self._reported.append(self._desk.submit("recording", self._study.report, results))

    def _decide(self, post: Post, report: Report) -> None:
        for number, result in report.results.items():
            post.running[number].epochs.append(result)
        pruned = self._judge.pruned(post.running)
        for number in report.results:
            reason = self._judge.reason_to_end(post.running[number], number in pruned)
            if reason is not None:
                self._keep_weights(post, number, reason)
                post.to_free.append(number)
                self._end(post.running.pop(number), reason)

    def _keep_weights(self, post: Post, number: int, reason: Reason) -> None:
        run = post.running[number]
        if self._weights is None or reason not in (Reason.COMPLETED, Reason.EARLY_STOPPED):
            return
        if self._weights.wanted(run.assignment, min(row.val_loss for row in run.epochs)):
            weights = post.trainer.best_weights(number)
            self._desk.submit("recording", self._weights.save, number, weights)

    def _end(self, run: Running, reason: Reason, error: str | None = None) -> None:
        number = run.assignment.number
        self._judge.take_note(run.record(reason, error))
        self._study.set_aside(number, reason, run.epochs, error, run.worker)
        finish = partial(self._study.finish, number, reason, run.epochs, error, run.worker)
        self._recorded.append(self._desk.submit("recording", finish))

    def _announce(self) -> None:
        """Tell the watcher what is new here and at the others, and raise what the storage has refused."""
        self._tell()
        self._tell_of_outage()
        self._desk.check()
        if (news := self._newspaper.fetch()) is not None:
            self._take_in(news)

    def _tell(self) -> None:
        """Tell the watcher what is in the storage by now, and of weights that are not in the home."""
        for lost in results_of(self._reported):
            self._drop(lost)
        for record in results_of(self._recorded):
            if record is None:
                continue
            self._watcher.ended(record)
            if record.reason is Reason.LOST:
                self._tell_of_loss([record.number])
        if self._weights is not None and (text := self._weights.take_notice()) is not None:
            self._watcher.message(text)

    def _tell_of_outage(self) -> None:
        if (text := self._newspaper.outage()) is not None:
            self._watcher.message(text)

    def _take_in(self, news: News) -> None:
        self._may_ask = self._may_ask or news.to_ask
        if news.stop and not self._draining:
            self._draining = True
            self._watcher.message("Asked to stop: the epochs under way are the last")
        for text in news.remarks:
            self._watcher.message(text)
        for record in news.ended:
            self._judge.take_note(record)
            self._watcher.ended(record)

    def _drop(self, lost: set[int]) -> None:
        """Give up trials that others have taken over."""
        for post in self._posts:
            for number in lost & post.running.keys():
                self._judge.take_note(post.running.pop(number).record(Reason.LOST, None))
                post.to_free.append(number)
        if lost:
            self._tell_of_loss(lost)

    def _tell_of_loss(self, numbers: Collection[int]) -> None:
        if (text := self._study.explain_loss(numbers)) is not None:
            self._watcher.message(text)

    def _look_for_hangs(self) -> None:
        now = time.monotonic()
        seconds, self._looked = now - self._looked, now
        for post in [post for post in self._posts if post.hangs(seconds)]:
            took = f"{post.waited:.0f} s, its epochs before at most {post.slowest:.0f} s"
            self._replace(post, TrainerLost(f"an epoch has not ended after {took}"))

    def _replace(self, post: Post, error: TrainerLost) -> None:
        """Put a dead trainer's trials back into the queue and start another in its place, unless it is hopeless."""
        out_of_memory = isinstance(error, OutOfMemory)
        # With half the slots there is hope, and no trial is to blame.
        too_many = out_of_memory and post.trainer.slots > 1
        # What the kernel killed before its first epoch would need as much with half of them.
        in_vain = not too_many or (isinstance(error, KilledForMemory) and not post.proven)
        if out_of_memory and in_vain and len(self._posts) > 1:
            self._give_up(post, TrainerError(str(error)))
            return
        post.deaths_in_a_row += not too_many
        if post.deaths_in_a_row >= _ATTEMPTS:
            why = f"trainers failed {_ATTEMPTS} times in a row without finishing an epoch: {error}"
            self._give_up(post, TrainerError(why), str(error))
            return
        self._put_back(post, None if too_many else str(error))
        how = "by one with half the slots" if too_many else "by another"
        self._watcher.message(f"A trainer failed and is replaced {how}; its trials are back in the queue: {error}")
        try:
            post.take_on(self._crew.replace(post.place, fewer_slots=too_many))
        except TrainerLost as lost:
            self._give_up(post, TrainerError(f"a trainer could not be started: {lost}"))
        except RegsearchError as useless:
            self._give_up(post, useless)

    def _give_up(self, post: Post, why: RegsearchError, blame: str | None = None) -> None:
        """Go on without a trainer, as `_put_back` says with its trials. Raises `why` when it is the last one."""
        post.trainer.close()
        if len(self._posts) == 1:
            raise why
        self._put_back(post, blame)
        self._posts.remove(post)
        self._watcher.message(f"The search goes on with {len(self._posts)} of its trainers: {why}")

    def _put_back(self, post: Post, blame: str | None) -> None:
        """Put a trainer's trials back into the queue; `blame` is what it died of, if that may be their fault."""
        for run in post.running.values():
            self._try_again(run, blame)
        # The next one may have fewer slots, or have to wait for room; who can take them now does.
        self._left_over += post.asked
        for of_the_dead in (post.running, post.asked, post.to_free):
            of_the_dead.clear()
        post.waiting = False

    def _try_again(self, run: Running, blame: str | None) -> None:
        if blame is not None and run.assignment.trainer_deaths + 1 >= _ATTEMPTS:
            self._end(run, Reason.ERROR, blame)
        else:
            self._end(run, Reason.INTERRUPTED, blame)
            self._may_ask = True

    def _leave(self) -> None:
        """End the trainers and put every unfinished trial back into the queue, past whatever cannot be recorded.

        Raises the first failure, once all has been tried.
        """
        try:
            for post in self._posts:
                for run in post.running.values():
                    self._end(run, Reason.INTERRUPTED)
            for future in [*self._left_over, *(future for post in self._posts for future in post.asked)]:
                self._recorded.append(self._desk.submit("recording", self._return_unbegun, future))
            for post in self._posts:
                if post.waiting:  # for an epoch that nobody wants any more
                    post.trainer.close()
            self._desk.wait_for_all(self._study)
            self._tell()
            if self._study.trouble is None:  # otherwise there is an error to tell of it
                self._tell_of_outage()
        finally:
            self._desk.close()
        self._desk.check()

    def _return_unbegun(self, asked: Future[Assignment | None]) -> TrialRecord | None:
        """Put back what was asked for; called at the desk, when the answer is there."""
        assignment = asked.result()
        return None if assignment is None else self._study.finish(assignment.number, Reason.INTERRUPTED, ())
