"""Trainers that train nothing and give the losses that a test says, who starts them, and who looks on."""

from search.crew import Crew
from search.records import EpochResult
from search.trainers import Report


class ScriptedTrainer:
    """Gives each trial the losses that `curve(assignment)` says; knows its slots and complains when they overflow."""

    lacks = None

    def __init__(self, curve, slots=3):
        self.slots, self._curve = slots, curve
        self.occupied, self.closed = {}, False

    @staticmethod
    def first_done(trainers, timeout):
        return trainers

    def begin(self, admit, free):
        for number in free:
            del self.occupied[number]
        for assignment in admit:
            self.occupied[assignment.number] = [0, assignment]
        assert len(self.occupied) <= self.slots

    def collect(self):
        results, failed = {}, {}
        for number, life in list(self.occupied.items()):
            life[0] += 1
            loss = self._curve(life[1])(life[0])
            if isinstance(loss, str):
                failed[number] = loss
                del self.occupied[number]
            else:
                results[number] = EpochResult(life[0], loss / 2, loss, 0.9, 0.0)
        return Report(results, failed)

    def best_weights(self, number):
        assert number in self.occupied
        return b""

    def checkpoint(self, free):
        for number in free:
            del self.occupied[number]

    def vacate(self):
        self.occupied.clear()

    def close(self):
        self.closed = True


class ScriptedCrew:
    """One trainer at a time, the next one when it dies."""

    def __init__(self, first, *others):
        self.trainers, self._others = [first], iter(others)

    def replace(self, index, fewer_slots=False):
        slots = self.trainers[index].slots
        self.trainers[index].close()
        self.trainers[index] = next(self._others)
        if fewer_slots:
            self.trainers[index].slots = slots // 2
        return self.trainers[index]

    vacate = Crew.vacate


class Notes:
    """A watcher that writes everything down."""

    def __init__(self):
        self.started_numbers, self.records, self.messages, self.epochs = [], [], [], 0

    def started(self, assignment):
        self.started_numbers.append(assignment.number)

    def epoch_ended(self, report):
        self.epochs += 1

    def ended(self, record):
        self.records.append(record)

    def message(self, text):
        self.messages.append(text)

    @property
    def reasons(self):
        return [record.reason for record in self.records]


def falling(_assignment):
    return lambda epoch: 1.0 / epoch
