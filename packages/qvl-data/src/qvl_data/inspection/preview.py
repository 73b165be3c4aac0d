"""Samples as training will see them, as plain values for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError
from qvl_core.geometry import tokens_of
from qvl_core.input_file import printable

from qvl_data.batching.micro_batch import collate
from qvl_data.dataset import Dataset
from qvl_data.inspection.pictures import frames_of_patches
from qvl_data.inspection.pieces import Piece, PieceReader
from qvl_data.inspection.thumbnails import data_uri
from qvl_data.planning import PlannedSample, sizes_of
from qvl_data.records.grounding import Size, frame_size, rescaled
from qvl_data.records.record import Record
from qvl_data.samples import Sample, build_sample
from qvl_data.streaming.stream_items import Stream

# What bounds a page: pictures are shrunk to this side, and no more of them are shown of a sample.
IMAGE_SIDE = 560
FRAME_SIDE = 176
MAX_MEDIA = 16
MAX_FRAMES = 24
_EXACT_PIXELS = 128 * 128
_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture: a data URI and its own size in pixels, its time in the video in seconds (None: an image), and the
    temporal slice of the grid that it belongs to."""

    uri: str
    width: int
    height: int
    slice: int = 0
    time_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A box (x1, y1, x2, y2) or point (x, y) in pixels of the resized picture."""

    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PreviewMedium:
    """An image or video as the model sees it. `rows` x `columns` tokens a slice, `slices` slices; sizes in pixels.

    `first_token` is the place of its first token in the sample; `times` are the time positions of its slices.
    `hidden_frames` are not shown.
    """

    kind: str
    name: str
    file_height: int
    file_width: int
    height: int
    width: int
    rows: int
    columns: int
    slices: int
    first_token: int
    position: tuple[int, int, int]
    times: tuple[int, ...]
    frames: tuple[Frame, ...]
    marks: tuple[Mark, ...] = ()
    hidden_frames: int = 0


@dataclass(frozen=True, kw_only=True)
class PreviewSample:
    """A sample: its number among the training samples, its place in the files, its tokens and media."""

    number: int
    where: str
    text_tokens: int
    image_tokens: int
    video_tokens: int
    learned_tokens: int
    pieces: tuple[Piece, ...]
    media: tuple[PreviewMedium, ...]
    hidden_media: int = 0
    max_pixels: int | None = None

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.text_tokens + self.image_tokens + self.video_tokens


@dataclass(frozen=True, kw_only=True)
class UnusableSample:
    """A sample that training would leave out or stop at, and why."""

    number: int
    where: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PreviewItem:
    """What training takes at one position of its order: a sample, or a pack of them of at most `room` tokens.

    `hidden` samples of a pack are not shown.
    """

    position: int | None
    samples: tuple[PreviewSample | UnusableSample, ...]
    room: int | None = None
    hidden: int = 0


class Previewer:
    """Makes previews of the samples of an indexed data set or a stream."""

    def __init__(self, data: Dataset | Stream) -> None:
        self._data = data
        self._processor = data.rules.processor if isinstance(data, Stream) else data.processor
        self._reader = PieceReader(self._processor.chat, self._processor.folder, self._processor.spec.tokens)

    def preview(self, number: int) -> PreviewSample | UnusableSample:
        """Make a sample as training does, and take it apart; or say why training would leave it out."""
        try:
            planned, sample = self._make(number)
        except DataError as error:
            return UnusableSample(number=number, where=self._data.where(number), message=str(error))
        return self._shown(number, planned, sample)

    def _make(self, number: int) -> tuple[PlannedSample, Sample]:
        data = self._data
        if isinstance(data, Stream):
            planned = data.rules.plan(data.rows.row(number))
            return planned, data.rules.make(planned)
        planned = data.planned(number)
        return planned, build_sample(planned, self._processor, loss_on=data.loss_on, frame=data.frame)

    def _shown(self, number: int, planned: PlannedSample, sample: Sample) -> PreviewSample:
        spec = self._processor.spec
        counts = tokens_of(sample.grids, spec.vision.spatial_merge_size).tolist() if len(sample.grids) else []
        # The positions of the batch that training makes of it, not a second way to compute them.
        positions = collate([sample], spec).position_ids
        pieces = self._reader.pieces(sample.input_ids, sample.labels, positions, counts)
        media = tuple(self._media(sample, planned, pieces, positions))
        image = int((sample.input_ids == spec.tokens.image).sum())
        video = int((sample.input_ids == spec.tokens.video).sum())
        return PreviewSample(
            number=number,
            where=planned.record.where,
            text_tokens=len(sample.input_ids) - image - video,
            image_tokens=image,
            video_tokens=video,
            learned_tokens=int((sample.labels != IGNORE).sum()),
            pieces=pieces,
            media=media,
            hidden_media=len(counts) - len(media),
            max_pixels=planned.max_pixels,
        )

    def _media(
        self, sample: Sample, planned: PlannedSample, pieces: Sequence[Piece], positions: NDArray[np.int32]
    ) -> Iterator[PreviewMedium]:
        vision = self._processor.spec.vision
        places = [piece for piece in pieces if piece.medium >= 0]
        sizes = sizes_of(planned.media, self._processor, planned.max_pixels)
        stops = np.cumsum(sample.grids.prod(axis=1))
        for number, (piece, file) in enumerate(list(zip(places, planned.media, strict=True))[:MAX_MEDIA]):
            slices, rows, columns = (int(side) for side in sample.grids[number])
            patches = sample.patches[stops[number] - slices * rows * columns : stops[number]]
            levels = self._processor.images.levels if piece.kind == "image" else self._processor.videos.levels
            pixels = frames_of_patches(patches, (slices, rows, columns), vision, levels)
            times = sample.frame_times[number] if sample.frame_times else np.zeros(0)
            frames, hidden = _frames(pixels, vision.temporal_patch_size, times)
            step = piece.count // slices
            yield PreviewMedium(
                kind=piece.kind,
                name=printable(file.written, 120),
                file_height=file.facts.height,
                file_width=file.facts.width,
                height=pixels.shape[1],
                width=pixels.shape[2],
                rows=rows // vision.spatial_merge_size,
                columns=columns // vision.spatial_merge_size,
                slices=slices,
                first_token=piece.first,
                position=piece.positions,
                times=tuple(positions[0, piece.first : piece.first + piece.count : step].tolist()),
                frames=frames,
                hidden_frames=hidden,
                marks=tuple(_marks(planned.record, number, sizes[number])),
            )


def _marks(record: Record, medium: int, sizes: tuple[Size, Size]) -> Iterator[Mark]:
    """Give the record's boxes and points on one of its media, in pixels of what the model sees."""
    original, resized = sizes
    for region in record.regions:
        if region.medium == medium:
            yield Mark(values=rescaled(region, frame_size(record.frame, original, resized), resized).values)


def _frames(pixels: NDArray[np.uint8], depth: int, times: NDArray[np.float64]) -> tuple[tuple[Frame, ...], int]:
    """Give the frames to show and the number of those left out. An image, which has no times, is one frame.

    A repeated last frame, which fills the last slice of an odd number of frames, has no time and is not shown.
    """
    if not len(times):
        return (_frame(pixels[0], IMAGE_SIDE, 0, None),), 0
    count = len(times)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int)).tolist()
    frames = tuple(_frame(pixels[i], FRAME_SIDE, i // depth, float(times[i])) for i in chosen)
    return frames, count - len(chosen)


def _frame(pixels_HWC: NDArray[np.uint8], side: int, number: int, time_s: float | None) -> Frame:
    image = Image.fromarray(pixels_HWC)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
    uri = data_uri(image, exact=image.width * image.height <= _EXACT_PIXELS, quality=_QUALITY)
    return Frame(uri=uri, width=image.width, height=image.height, slice=number, time_s=time_s)
