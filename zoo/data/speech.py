"""Features of speech: mel-frequency cepstra with first and second differences, and recordings out of an archive.

Davis & Mermelstein (1980), "Comparison of parametric representations for monosyllabic word recognition", in the form
Young et al. describe in The HTK Book (2006), chapter 5: pre-emphasis, windowed power spectrum, triangular filters on
the mel scale, log, cosine transform, regression over neighbouring frames.
"""

from __future__ import annotations

import io
import tarfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

__all__ = [
    "SPOKEN",
    "cepstra",
    "deltas",
    "features",
    "from_mel",
    "log_mel",
    "mel_filters",
    "read_recordings",
    "smooth_spectrogram",
    "to_mel",
]

Array = NDArray[np.float64]

#: Data sets whose frames are :func:`features`.
SPOKEN = ("digit_strings", "spoken_digits")
_PRE_EMPHASIS = 0.97
_QUIET = 1e-10  # power below which a filter counts as silent: digital silence must stay finite


def to_mel(hertz: Array | float) -> Array:
    """Hertz to mel, 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz, dtype=np.float64) / 700.0)


def from_mel(mel: Array | float) -> Array:
    """Mel to hertz."""
    return 700.0 * (10.0 ** (np.asarray(mel, dtype=np.float64) / 2595.0) - 1.0)


def mel_filters(num_filters: int, size: int, rate: int, low: float, high: float) -> Array:
    """Triangles of height 1 whose corners are equally spaced in mel, (num_filters, size // 2 + 1).

    Args:
        size: length of the Fourier transform. rate: samples a second. low, high: outer corners, Hz.
    """
    corners = from_mel(np.linspace(to_mel(low), to_mel(high), num_filters + 2))
    left, middle, right = (corners[i : i + num_filters, None] for i in range(3))
    bins = np.arange(size // 2 + 1) * rate / size
    triangles = np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle))
    return np.maximum(triangles, 0.0)


def log_mel(
    signal: Array,
    rate: int,
    num_filters: int = 26,
    low: float = 100.0,
    high: float = 4000.0,
    window: float = 0.025,
    step: float = 0.010,
) -> Array:
    """Log energies of a recording (samples,) in mel filters, (frames, num_filters).

    Frames lie wholly inside the recording; one shorter than a window is padded to one frame.
    """
    width, hop = round(window * rate), round(step * rate)
    emphasised = np.append(signal[:1], signal[1:] - _PRE_EMPHASIS * signal[:-1])
    if len(emphasised) < width:
        emphasised = np.pad(emphasised, (0, width - len(emphasised)))
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, width)[::hop]
    size = 1 << (width - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hamming(width), size)) ** 2 / size
    return np.log(np.maximum(power @ mel_filters(num_filters, size, rate, low, high).T, _QUIET))


def cepstra(energies: Array, num_cepstra: int = 13) -> Array:
    """The first coefficients of an orthonormal cosine transform of log energies, (frames, num_cepstra)."""
    from scipy.fft import dct

    return np.asarray(dct(energies, type=2, norm="ortho", axis=-1)[:, :num_cepstra])


def smooth_spectrogram(x: Array, num_filters: int = 26, num_cepstra: int = 13) -> Array:
    """Log energies in mel filters that :func:`features` (frames, 3 num_cepstra) tell, (frames, num_filters).

    They are smooth over filters, as only the first cepstra are kept, and zero in the mean over the recording.
    """
    from scipy.fft import idct

    return np.asarray(idct(x[:, :num_cepstra], type=2, n=num_filters, norm="ortho", axis=-1))


def deltas(x: Array, reach: int = 2) -> Array:
    """Slope at each frame of the regression line through ``reach`` frames on either side, of x's shape.

    The first and last frames are repeated beyond the ends.
    """
    padded = np.pad(x, ((reach, reach), (0, 0)), mode="edge")
    n = len(x)
    total = np.zeros(x.shape)
    for lag in range(1, reach + 1):
        total += lag * (padded[reach + lag : reach + lag + n] - padded[reach - lag : reach - lag + n])
    return total / (2 * sum(lag * lag for lag in range(1, reach + 1)))


def features(signal: Array, rate: int, num_cepstra: int = 13) -> Array:
    """Cepstra less their mean over the recording, with first and second differences, (frames, 3 num_cepstra)."""
    static = cepstra(log_mel(signal, rate), num_cepstra)
    static -= static.mean(axis=0)  # takes out the microphone and the loudness
    first = deltas(static)
    return np.hstack([static, first, deltas(first)])


def read_recordings(path: Path) -> Iterator[tuple[str, int, Array]]:
    """Name, sampling rate and samples in [-1, 1) of every 16-bit mono ``.wav`` in a tar archive, never unpacked.

    Raises:
        ZooError: a recording of another kind.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".wav") else None
            if stream is None:
                continue
            with wave.open(io.BytesIO(stream.read())) as recording:
                channels, bits = recording.getnchannels(), 8 * recording.getsampwidth()
                if (channels, bits) != (1, 16):
                    raise ZooError(
                        f"{path.name}: {member.name} expected one channel of 16 bits, got {channels} of {bits} bits. "
                        "Convert it first."
                    )
                content = recording.readframes(recording.getnframes())
                rate = recording.getframerate()
            yield Path(member.name).stem, rate, np.frombuffer(content, "<i2") / 32768.0
