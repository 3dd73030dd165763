"""Records and measures the planned sessions; sessions measured before are not repeated."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.contact_sheet import save_strip, strip_file
from evaluation.dataset import SessionVideo, Subject, subject
from evaluation.evaluator import Evaluator
from evaluation.plan import Job
from evaluation.results import Results
from evaluation.variants import Decoded
from live_avatar.config import Preset


@dataclass
class Recorder:
    """Records and measures sessions of all variants."""

    preset: Preset
    size: int
    """Pixels of a picture's side."""
    evaluator: Evaluator
    results: Results
    strips: Path
    """Folder of strips of pictures."""
    seed: int = 0
    again: bool = False
    """Repeat what has been measured before."""
    _subjects: dict[int, Subject] = field(default_factory=dict)

    def subject(self, job: Job) -> Subject:
        """The subject of ``job``; rendered once."""
        if job.number not in self._subjects:
            self._subjects[job.number] = subject(job.number, job.spans[0], self.preset, self.size)
        return self._subjects[job.number]

    def record_all(self, jobs: Iterable[Job]) -> None:
        """Records ``jobs``, with a progress bar."""
        with progress_bar() as bar:
            for job in jobs:
                if self.again or not self.results.has(job.row, job.number, job.spans):
                    self._record(job, bar)

    def _record(self, job: Job, bar: Progress) -> None:
        words = f"{job.row.name}, person {job.number + 1}, to {job.spans[-1]}"
        task = bar.add_task(words, total=job.spans[-1].end_block)
        video = job.row.record(self.subject(job), job.spans, self.seed, lambda done: bar.update(task, completed=done))
        self._measure(job, video)

    def _measure(self, job: Job, video: SessionVideo) -> None:
        whom, numbers = self.subject(job), []
        for segment in video.segments:
            fidelity = self.evaluator.fidelity(whom, segment) if isinstance(job.row, Decoded) else {}
            numbers.append(self.evaluator.numbers(whom, segment) | fidelity)
            save_strip(segment, strip_file(self.strips, job.row.name, job.number, segment.span.start_s))
        self.results.add(job.row, job.number, video, numbers)


def progress_bar() -> Progress:
    """A bar per session, in blocks."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
