"""Find the ink of a picture: how much of it covers each pixel, from 0 for paper to 1 for full ink.

Works for any colours, polarity, illumination and paper. "Paper" is the background that the ink lies
on, "surroundings" is what a photo shows beyond the edges of the sheet.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.borders import MIN_PAGE_SIDE, border_of, downscaled, without_surroundings
from mnist_cli.pictures.opening import MIN_CONTRAST
from mnist_cli.pictures.ruled_lines import line_pixels, long_line_bands

NO_DIGIT = "no digit found"
# Pixels of the longer side: a digit cannot be distinguished from a speck of fewer.
MIN_DIGIT_SIDE = 5

# Pixels of the longer side: illumination and colour vary slowly, and are estimated at this size.
_COARSE_SIDE = 256

# Strength of ink, 0-1. Hysteresis thresholding: pixels above the low threshold are ink where they
# are connected to a pixel above the high one.
_LOW_THRESHOLD = 0.2
_HIGH_THRESHOLD = 0.4
# There is no noise to mistake for ink, and pencil beside a marker is fainter than that.
_LOW_THRESHOLD_CLEAN = 0.1
_HIGH_THRESHOLD_CLEAN = 0.2
# Pixels, and strength of ink: a small one-bit scan has lost the grey edges of its strokes, and its
# faint strokes are broken. A blur by so much gives edges back and closes gaps of a pixel.
_ONE_BIT_BLUR = 0.8
_ONE_BIT_THRESHOLD = 0.15
# Standard deviations of the paper's noise: a threshold for ink is at least 4 of them, and up to 3
# may still be paper. In a photo the latter is at least `_MIN_NOISE_FLOOR`, a strength of ink.
_THRESHOLD_SIGMAS = 4
_FLOOR_SIGMAS = 3
_MIN_NOISE_FLOOR = 0.15
# A digit's least length as a fraction of a photo's longer side: grain and dust are smaller.
_MIN_DIGIT_FRACTION = 0.012

# Fraction of the variance of colours that lies outside their principal component, if there are inks
# of several colours.
_MAX_OTHER_COLORS = 0.1

# Strength of ink: a picture with more noise on its paper is a photo or a scan. JPEG compression of
# a drawing leaves less.
_MAX_CLEAN_NOISE = 1 / 15
# Fraction of the pixels nearer to paper than to ink that must equal paper within its tolerance.
_MIN_CLEAN_FRACTION = 0.75
# The tolerance of paper: grey levels of 255, and a fraction of the picture's contrast.
_PAPER_TOLERANCE_LEVELS = 1.5
_PAPER_TOLERANCE_FRACTION = 0.02

# Strength of ink: the gradient over 3 pixels of the coarse picture that makes an edge sharp.
_SHARP_GRADIENT = 0.2
_MIN_CONTRAST_FRACTION = 0.08  # of the paper's brightness: fainter marks are stains and folds
# Grey levels: the same for light ink. Its paper is dark, and any noise is a large fraction of it.
_MIN_CONTRAST_LEVELS = 12
_MIN_LIGHT_LEVELS = 8  # grey levels: less light is all noise, and must not be divided by
_MIN_BIMODAL_CONTRAST = 60  # grey levels between paper and ink in a close crop of a digit
_BIMODAL_NOISE = 0.02  # strength of ink: assumed, as a close crop has too little paper to measure
_MAX_BETWEEN_MODES = 0.25  # fraction of pixels, as edges are, with tones between paper and ink
# Fraction of the picture's contrast: a border whose tones spread less shows paper only.
_UNIFORM_BORDER_SPREAD = 0.35
# Fractions: so much of the border of a drawing must be within the tolerance of its median, itself a
# fraction of the contrast, to be paper for certain.
_MIN_UNIFORM_BORDER = 0.9
_UNIFORM_BORDER_TOLERANCE = 0.1
# Ink so many times as strong as ruled lines is separated from them by a threshold alone.
_FAINT_LINES_RATIO = 1.6


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture of H x W pixels.

    Attributes:
        strength: (H, W) float32, 0 for paper to 1 for full ink.
        mask: (H, W) bool, the pixels that belong to strokes.
        strong: (H, W) bool, the pixels of which each stroke must have some.
        threshold: the least strength of a stroke, 0-1.
        noise_floor: the largest strength that may still be paper, 0-1.
        min_digit_side: the least length of a digit's longer side, in pixels.
    """

    strength: Array
    mask: Array
    strong: Array
    threshold: float
    noise_floor: float
    min_digit_side: float


def find_ink(pixels: Array) -> list[Ink]:
    """Return the ink in upright pixels, uint8, (H, W) or (H, W, 3), in its possible readings.

    The first is the likeliest. There is a second, of the other polarity, where the border of the
    picture does not show which of two tones is paper. Raises `PictureError` for a blank picture.
    """
    if max(pixels.shape[:2]) < MIN_DIGIT_SIDE:
        raise PictureError(NO_DIGIT)
    grey = _grey(without_surroundings(pixels))
    low, high = float(grey.min()), float(grey.max())
    if high - low < MIN_CONTRAST:
        raise PictureError(NO_DIGIT)
    border = border_of(grey)
    paper = float(np.median(border))
    readings = [(paper, low if paper - low >= high - paper else high)]
    tolerance = _UNIFORM_BORDER_TOLERANCE * (high - low)
    if np.mean(np.abs(border - paper) <= tolerance) < _MIN_UNIFORM_BORDER:
        readings.append((readings[0][1], paper))
    clean = [_drawn_ink(grey, *reading) for reading in readings]
    is_clean = clean[0] is not None
    inks = list(filter(None, clean)) if is_clean else _captured_inks(grey, *readings[0])
    return [_without_ruled_lines(ink, is_clean=is_clean) for ink in inks]


def _drawn_ink(grey: Array, paper: float, full_ink: float) -> Ink | None:
    """Return the ink of a picture that a program drew, or None for a photo or a scan.

    Its strength is linear in the grey levels between ``paper`` and ``full_ink``: so MNIST's own
    images keep their values.
    """
    distance = np.abs(grey - paper)
    is_nearer_paper = distance < abs(full_ink - paper) / 2
    contrast = float(grey.max()) - float(grey.min())
    is_paper = distance <= max(_PAPER_TOLERANCE_LEVELS, _PAPER_TOLERANCE_FRACTION * contrast)
    strength = np.clip((paper - grey) / np.float32(paper - full_ink), 0, 1)
    noise = float(strength[is_paper].std()) if is_paper.any() else 1.0
    paper_pixels, nearer_pixels = np.count_nonzero(is_paper), np.count_nonzero(is_nearer_paper)
    if paper_pixels < _MIN_CLEAN_FRACTION * nearer_pixels or noise >= _MAX_CLEAN_NOISE:
        return None
    threshold = max(_LOW_THRESHOLD_CLEAN, _THRESHOLD_SIGMAS * noise)
    if min(grey.shape) < MIN_PAGE_SIDE and _is_one_bit(strength):
        strength = cv2.GaussianBlur(strength, (0, 0), _ONE_BIT_BLUR)
        strength /= max(float(strength.max()), 1e-6)
        threshold = _ONE_BIT_THRESHOLD
    return Ink(
        strength=strength,
        mask=strength > threshold,
        strong=strength > _HIGH_THRESHOLD_CLEAN,
        threshold=threshold,
        noise_floor=_FLOOR_SIGMAS * noise,
        min_digit_side=float(MIN_DIGIT_SIDE),
    )


def _is_one_bit(strength: Array) -> bool:
    """Return whether ink (H, W), 0-1, has no grey edges, which a stroke of few pixels needs.

    Noise has none, either, but covers half of the picture.
    """
    is_grey = (strength > _LOW_THRESHOLD_CLEAN) & (strength < 1 - _LOW_THRESHOLD_CLEAN)
    inked = np.count_nonzero(strength)
    return bool(np.count_nonzero(is_grey) <= 0.02 * inked and inked <= 0.4 * strength.size)


def _captured_inks(grey: Array, paper: float, full_ink: float) -> list[Ink]:
    """Return the possible readings of a photo or scan; raises `PictureError` if there is none."""
    if max(grey.shape) >= 400:
        grey = cv2.GaussianBlur(grey, (3, 3), 0)  # against sensor noise; strokes are wider here
    small = cv2.medianBlur(downscaled(grey, _COARSE_SIDE), 3)
    has_dark_ink, is_certain = _has_dark_ink(small)
    polarities = (has_dark_ink,) if is_certain else (has_dark_ink, not has_dark_ink)
    found = [_corrected_strength(grey, small, has_dark_ink=dark) for dark in polarities]
    if found[0] is None and _is_bimodal(grey, abs(paper - full_ink)):
        strength = np.clip((paper - grey) / np.float32(paper - full_ink), 0, 1)
        found[0] = strength, _BIMODAL_NOISE, np.ones(grey.shape, dtype=bool)
    inks = [
        Ink(
            strength=strength,
            mask=strength > max(_THRESHOLD_SIGMAS * noise, _LOW_THRESHOLD),
            strong=(strength > _HIGH_THRESHOLD) & is_near_edge,
            threshold=max(_THRESHOLD_SIGMAS * noise, _LOW_THRESHOLD),
            noise_floor=max(_FLOOR_SIGMAS * noise, _MIN_NOISE_FLOOR),
            min_digit_side=max(MIN_DIGIT_SIDE, _MIN_DIGIT_FRACTION * max(grey.shape)),
        )
        for strength, noise, is_near_edge in filter(None, found)
    ]
    if not inks:
        raise PictureError(NO_DIGIT)
    return inks


# --- Colour to grey ------------------------------------------------------------------------------


def _grey(pixels: Array) -> Array:
    """Return (H, W) float32, 0-255: the colours projected on the line from paper to ink.

    The usual weights of grey lose yellow ink on white and red ink on green. The direction here is
    the first principal component of the pixels that differ most from their neighbourhood. If one
    direction does not explain them, there are inks of several colours, and ink is what differs
    from the paper in any of its channels.
    """
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
        return pixels[..., 0].astype(np.float32)
    coarse = downscaled(pixels, _COARSE_SIDE)
    small = coarse.astype(np.float32)
    sigma = max(small.shape) / 8
    mean = np.asarray(cv2.GaussianBlur(small, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    difference = (small - mean).reshape(-1, 3)
    squares = (difference * difference).sum(axis=1)
    salient = difference[squares >= np.percentile(squares, 90)]
    variances, axes = np.linalg.eigh(salient.T @ salient)
    if variances[:-1].sum() > _MAX_OTHER_COLORS * variances.sum():
        return _difference_from_paper(pixels, coarse)
    axis = axes[:, -1] * (1 if axes[:, -1].sum() >= 0 else -1)
    axis /= np.abs(axis).sum()  # keeps the result in a range of 255
    offset = -255 * axis[axis < 0].sum()
    weights = np.append(axis, offset).astype(np.float32)
    return np.asarray(cv2.transform(pixels.astype(np.float32), weights[None]))


def _difference_from_paper(pixels: Array, coarse: Array) -> Array:
    """Return (H, W) float32, 255 at paper, less by the channel that differs most from it.

    ``pixels`` is (H, W, 3), uint8, and ``coarse`` the same at `_COARSE_SIDE`.
    """
    # Most of a neighbourhood is paper.
    paper = cv2.medianBlur(coarse, max(coarse.shape[:2]) // 2 | 1)
    size = (pixels.shape[1], pixels.shape[0])
    difference = cv2.absdiff(pixels, cv2.resize(paper, size, interpolation=cv2.INTER_LINEAR))
    return np.asarray(255 - difference.max(axis=2).astype(np.float32))


# --- Illumination correction ---------------------------------------------------------------------


def _corrected_strength(
    grey: Array, small: Array, *, has_dark_ink: bool
) -> tuple[Array, float, Array] | None:
    """Return strength of ink, noise level and edge neighbourhoods of a photo, or None without ink.

    The strength is (H, W) float32, 0-1, after division by the illumination, because shadow dims ink
    and paper by the same factor. The noise level is the standard deviation of the paper's strength.
    The neighbourhoods (H, W), bool, are True near sharp edges, which ink has and shadow has not.
    ``small`` is ``grey`` at `_COARSE_SIDE`.
    """
    if not has_dark_ink:
        small, grey = 255 - small, 255 - grey
    light = np.maximum(_illumination(small), _MIN_LIGHT_LEVELS)
    gradient = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) / light
    height, width = grey.shape
    strength = 1 - grey / cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    # At least half of a page, or of its border, is paper: so the median is paper, and the spread
    # below it is the paper's noise, whatever ink lies above. 1.4826 times the median absolute
    # deviation estimates the standard deviation of normal noise.
    sample = strength[:: max(1, height // 500), :: max(1, width // 500)]
    paper = float(min(np.median(sample), np.median(border_of(strength))))
    noise = 1.4826 * float(np.median(paper - sample[sample <= paper]))
    strength -= np.float32(paper)
    above_noise = strength[strength > max(5 * noise, 0.05)]
    if above_noise.size < MIN_DIGIT_SIDE:
        return None
    full_ink = float(np.percentile(above_noise, 98))
    if full_ink < max(_MIN_CONTRAST_FRACTION, 8 * noise):
        return None
    if full_ink * float(np.median(light)) < _MIN_CONTRAST_LEVELS:
        return None
    is_sharp = (gradient > _SHARP_GRADIENT * full_ink).astype(np.uint8)
    near_edge = cv2.dilate(is_sharp, np.ones((5, 5), np.uint8))
    near_edge = cv2.resize(near_edge, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.clip(strength / full_ink, 0, 1), noise / full_ink, np.asarray(near_edge > 0)


def _is_bimodal(grey: Array, contrast: float) -> bool:
    """Return whether most pixels have one of two tones that differ by ``contrast``, 0-255.

    Then tone alone separates ink from paper, even in a crop so close that most of it is ink.
    """
    tones = (grey - grey.min()) / np.ptp(grey)
    between = np.mean((tones > 0.3) & (tones < 0.7))
    return bool(contrast >= _MIN_BIMODAL_CONTRAST and between <= _MAX_BETWEEN_MODES)


def _has_dark_ink(small: Array) -> tuple[bool, bool]:
    """Return the polarity of a grey picture, whether its ink is dark, and whether that is certain.

    It is, by the tone of the border, if that is uniform; the sign of the sharp details is a guess.
    """
    border = border_of(small)
    low, high = np.percentile(small, (1, 99))
    if np.subtract(*np.percentile(border, (90, 10))) < _UNIFORM_BORDER_SPREAD * (high - low):
        paper = float(np.median(border))
        return bool(paper - low >= high - paper), True
    side = max(small.shape)
    window = side // 6 if side >= MIN_PAGE_SIDE else side // 2  # strokes are thick in a close crop
    median = cv2.medianBlur(small.astype(np.uint8), max(3, window) | 1)
    difference = small / np.maximum(median, _MIN_LIGHT_LEVELS) - 1
    # The third power lets strong details decide.
    return bool((difference**3).sum() <= 0), False


def _without_ink(small: Array) -> Array:
    """Return a grey picture of dark ink after a closing that removes the ink.

    A morphological closing replaces what is dark and narrower than a square by what is beside it,
    and keeps the edge of a shadow. The square is twice as wide as the smallest of four that shows
    0.7 of the contrast between ink and paper that the largest of them shows.
    """
    side = max(small.shape)
    # How many of the darkest pixels measure the contrast: about those of a small digit on a page.
    darkest = min(small.size, max(5, small.size // 1600))

    def closed(divisor: float) -> Array:
        size = max(3, int(side / divisor)) | 1
        kernel = np.ones((size, size), np.uint8)
        return np.asarray(
            cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
        )

    def contrast(divisor: float) -> float:
        strength = 1 - small / np.maximum(closed(divisor), _MIN_LIGHT_LEVELS)
        return float(np.partition(strength.ravel(), -darkest)[-darkest:].mean())

    full_contrast = contrast(2)
    large_enough = next(
        divisor for divisor in (16, 8, 4, 2) if contrast(divisor) >= 0.7 * full_contrast
    )
    return closed(large_enough / 2)


def _illumination(small: Array) -> Array:
    """Return the brightness (H, W), float32, 0-255, of bare paper at each pixel.

    ``small`` is a grey picture of dark ink.
    """
    coarse = _without_ink(small)
    strength = np.clip(1 - small / np.maximum(coarse, 1), 0, 1)
    _, ink = cv2.threshold(
        (strength * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    ink = cv2.dilate(ink, np.ones((3, 3), np.uint8))
    # A closing follows the brightest specks; the median of the pixels without ink does not. Unlike
    # a mean, a median also keeps the edge of a shadow where it is.
    paper = np.where(ink > 0, coarse, small).astype(np.uint8)
    return np.asarray(cv2.medianBlur(paper, max(3, max(small.shape) // 16) | 1).astype(np.float32))


# --- Ruled and squared paper ---------------------------------------------------------------------


def _without_ruled_lines(ink: Ink, *, is_clean: bool) -> Ink:
    """Return the ink without the lines of ruled and squared paper.

    By a higher threshold where the lines are faint, else by removing the pixels of the lines.
    """
    if min(ink.mask.shape) < MIN_PAGE_SIDE:
        return ink
    mask, strength = ink.mask, ink.strength
    horizontal = long_line_bands(mask)
    vertical = long_line_bands(np.ascontiguousarray(mask.T)).T
    on_lines, elsewhere = mask & (horizontal | vertical), mask & ~(horizontal | vertical)
    if not on_lines.any():
        return ink
    elsewhere = cv2.erode(elsewhere.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0
    if elsewhere.any():
        line = float(np.percentile(strength[on_lines], 75))
        stroke = float(np.percentile(strength[elsewhere], 75))
        if stroke > _FAINT_LINES_RATIO * line:
            threshold = float(np.sqrt(line * stroke))
            return Ink(
                strength=strength,
                mask=strength > threshold,
                strong=ink.strong,
                threshold=threshold,
                noise_floor=(line + threshold) / 2,
                min_digit_side=ink.min_digit_side,
            )
    removed, gap_y = line_pixels(mask & ~vertical, horizontal)
    removed_vertical, gap_x = line_pixels((mask & ~horizontal).T, vertical.T)
    removed |= removed_vertical.T | (mask & horizontal & vertical)
    # Removing a line interrupts a stroke as thin as itself that crosses it: close that gap.
    kept = (mask & ~removed).astype(np.uint8)
    removed &= cv2.morphologyEx(kept, cv2.MORPH_CLOSE, np.ones((gap_y, 1), np.uint8)) == 0
    removed &= cv2.morphologyEx(kept, cv2.MORPH_CLOSE, np.ones((1, gap_x), np.uint8)) == 0
    remaining = mask & ~removed
    stats = cv2.connectedComponentsWithStats(remaining.astype(np.uint8))[2][1:]
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1, initial=0)
    # In a clean picture where nothing else is left, the "line" is a digit from edge to edge.
    if is_clean and sides.max(initial=0) < max(MIN_DIGIT_SIDE, 0.08 * min(mask.shape)):
        return ink
    return Ink(
        strength=strength,
        mask=remaining,
        strong=ink.strong,
        threshold=ink.threshold,
        noise_floor=ink.noise_floor,
        min_digit_side=ink.min_digit_side,
    )
