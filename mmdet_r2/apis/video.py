"""Detection in videos: frames streamed from one file through the detector into another."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from torch import nn

from ..datasets.image_contents import too_large
from ..errors import DataError
from ..files import open_file, replacing
from ..structures import DetDataSample
from .inference import image_pipeline
from .stream import Masks, stream

# Codecs that OpenCV's own FFmpeg can write into files of these names.
_CODECS = {'.avi': 'MJPG', '.mkv': 'mp4v', '.mov': 'mp4v', '.mp4': 'mp4v', '.webm': 'VP80'}
_DEFAULT_FPS = 25.0


@dataclass
class Video:
    """A readable video.

    Attributes:
        path: of the file.
        fps: frames per second; 25 where the file does not say.
        width, height: of its frames, in pixels.
        frames: their number as the file says; None where it does not.
    """

    path: str
    fps: float
    width: int
    height: int
    frames: int | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> 'Video':
        """Look into a file.

        Raises:
            DataError: it is missing, no regular file, no video that OpenCV can decode, or its
                frames have too many pixels.
        """
        path = os.fspath(path)
        capture = _capture(path)
        try:
            sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            if reason := too_large(*(int(max(0, capture.get(side))) for side in sides)):
                raise DataError(f'{path}: {reason}')
            done, frame = capture.read()
            if not done:
                raise DataError(f'{path}: has no frame that can be decoded.')
            fps = capture.get(cv2.CAP_PROP_FPS)
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        height, width = frame.shape[:2]
        known = np.isfinite(fps) and 0 < fps < 1000
        return cls(
            path, fps if known else _DEFAULT_FPS, width, height, count if count > 0 else None
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames (height, width, 3) uint8 BGR, read as they are taken."""
        capture = _capture(self.path)
        try:
            while True:
                done, frame = capture.read()
                if not done:
                    return
                yield frame
        finally:
            capture.release()


class VideoWriter:
    """Writes frames into a video file; a context manager. The file gets its name when it is
    complete.

    Args:
        path: of the file; its suffix chooses the codec: .mp4, .mov, .mkv (MPEG-4), .avi (Motion
            JPEG), .webm (VP8).
        fps: frames per second.
        width, height: of the frames. Codecs halve the resolution of colours: of an odd side the
            last row or column is left out.

    Raises:
        DataError: the file cannot be written, or its suffix is another one.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, width: int, height: int) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in _CODECS:
            raise DataError(
                f'{self.path}: videos are written into files that end in {", ".join(_CODECS)}.'
            )
        _check_name(os.fspath(path))
        self._replacing = replacing(self.path)
        self._temporary = self._replacing.__enter__()
        code = cv2.VideoWriter.fourcc(*_CODECS[suffix])
        self._size, self._frames = (width, height), 0
        self._writer = cv2.VideoWriter(str(self._temporary), code, fps, self._size)
        if not self._writer.isOpened():
            error = DataError(
                f'{self.path}: cannot be written (no permission, or OpenCV lacks the codec '
                f'{_CODECS[suffix]})'
            )
            self._replacing.__exit__(type(error), error, None)
            raise error

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (height, width, 3) uint8 BGR."""
        if frame.shape[1::-1] != self._size:  # OpenCV would leave it out without a word
            frame = cv2.resize(frame, self._size)
        self._writer.write(frame)
        self._frames += 1

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()
        if kind is None:
            try:
                self._check_written()
            except DataError as failure:
                self._replacing.__exit__(DataError, failure, None)
                raise
        self._replacing.__exit__(kind, error, trace)

    def _check_written(self) -> None:
        """OpenCV says nothing of a disk that is full; what it leaves then has no index."""
        capture = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if self._frames and count <= 0:
            raise DataError(f'{self.path}: cannot be written to its end; is the disk full?')


def video_inference(
    model: nn.Module,
    video: Video,
    *,
    batch_size: int = 1,
    num_workers: int = 2,
    masks: Masks = 'rle',
) -> Iterator[tuple[np.ndarray, DetDataSample]]:
    """Each frame (height, width, 3) uint8 BGR with what was found in it, in order.

    Frames are decoded while the detector works. Only those of a few batches are in memory, however
    long the video is.

    Args:
        model: from :func:`~mmdet_r2.apis.init_detector`.
        video: see :meth:`Video.open`.
        batch_size: frames computed at once.
        num_workers: threads that scale frames.
        masks: 'rle' or 'bitmap', as in :func:`~mmdet_r2.apis.inference_detector`.
    """
    results = stream(
        model,
        video,
        image_pipeline(model),
        batch_size=batch_size,
        num_workers=num_workers,
        masks=masks,
    )
    for result in results:
        assert result.sample is not None
        yield result.source.decode(), result.sample


def quiet_opencv() -> None:
    """Let a script alone say what is wrong with a video: OpenCV and its FFmpeg are silenced, in the
    whole process, below errors.
    """
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def _check_name(path: str) -> None:
    """OpenCV crashes on names that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f'{path!r}: its name is not UTF-8; rename the file or folder') from None


def _capture(path: str) -> cv2.VideoCapture:
    _check_name(path)
    open_file(path, 'video', sys.maxsize).close()
    # OpenCV would else look for numbered images beside a file that is no video
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise DataError(f'{path}: not a video that OpenCV can read, or damaged.')
    return capture
