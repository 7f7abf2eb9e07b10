"""Scenes with known objects: textured shapes, drawings and real cut-outs over backgrounds.

Everything is drawn in the model frame: content at the top left, padding right and below. A scene
knows its smallest regions; parts, whole things and groups are sets of regions, so one pixel can
belong to several objects, which is what makes a single click ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from .objects import Cutout, Image, Library, Mask, load_library
from .textures import Field, as_field, jitter, paint, photo_piece

FRAME = 256  # pixels; side of the square model frame
MIN_AREA = 160  # pixels, a four-hundredth of the frame; a smaller object teaches little
MIN_VISIBLE = 0.35  # of what was painted; what is hidden more is no longer an object
MAX_SHARE = 0.85  # of the content; a larger object is the background


@dataclass(frozen=True, slots=True)
class Scene:
    """One image and the objects in it.

    Attributes:
        image: uint8 (256, 256, 3) RGB, black outside the content.
        input_size: (height, width) of the content, which lies at the top left.
        regions: uint8 (256, 256), the smallest region each pixel belongs to; 0 is none.
        objects: each object as the regions that it is made of.
    """

    image: Image
    input_size: tuple[int, int]
    regions: NDArray[np.uint8]
    objects: tuple[tuple[int, ...], ...]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Return the visible mask of an object, bool (256, 256)."""
        inside = np.zeros(256, np.bool_)
        inside[list(self.objects[index])] = True
        return inside[self.regions]


def make_scene(seed: int, index: int, library: Library | None = None) -> Scene:
    """Make scene `index` of the series `seed`; the same two numbers give the same scene.

    A scene without any object that is large enough is made again from the next random state.
    """
    library = library or load_library()
    rng = np.random.default_rng([seed, index])
    while True:
        scene = _Canvas(rng, library).finish()
        if scene.objects:
            return scene


@dataclass(slots=True)
class _Canvas:
    """A scene being painted, far things first."""

    rng: np.random.Generator
    library: Library
    image: Field = field(init=False)
    regions: NDArray[np.uint8] = field(init=False)
    objects: list[list[int]] = field(init=False, default_factory=list)
    used: int = field(init=False, default=0)
    painted: dict[int, int] = field(init=False, default_factory=dict)  # region to its pixels

    def __post_init__(self) -> None:
        height, width = self._choose_size()
        self.regions = np.zeros((height, width), np.uint8)
        kind = self.rng.random()
        if kind < 0.3:
            self._annotated_photo(height, width)
            things = int(self.rng.choice([0, 0, 1, 2, 3]))
        else:
            if kind < 0.65:
                self.image = photo_piece(self.rng, self.library, height, width)
            else:
                self.image = paint(self.rng, self.library, height, width)
            if self.rng.random() < 0.3:
                self._ground()
            things = int(self.rng.integers(2, 9))
        for _ in range(things):
            self._thing()

    def finish(self) -> Scene:
        """Light and photograph the scene, and list the objects that can be seen."""
        areas = np.bincount(self.regions.ravel(), minlength=256)
        seen: dict[tuple[int, ...], None] = {}
        for regions in self.objects:
            visible = tuple(region for region in regions if areas[region])
            area = int(areas[list(visible)].sum())
            least = max(MIN_AREA, MIN_VISIBLE * self.painted[regions[0]])
            if least <= area <= MAX_SHARE * self.regions.size:
                seen[visible] = None
        height, width = self.regions.shape
        image = np.zeros((FRAME, FRAME, 3), np.uint8)
        image[:height, :width] = _photograph(self.rng, self.image)
        padded = np.zeros((FRAME, FRAME), np.uint8)
        padded[:height, :width] = self.regions
        return Scene(image, (height, width), padded, tuple(seen))

    def _choose_size(self) -> tuple[int, int]:
        shapes = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16, self.rng.uniform(0.4, 2.5))
        ratio = shapes[self.rng.integers(len(shapes))]
        return (FRAME, round(FRAME * ratio)) if ratio < 1 else (round(FRAME / ratio), FRAME)

    def _new_region(self) -> int:
        self.used += 1
        return self.used

    def _annotated_photo(self, height: int, width: int) -> None:
        """Start from a window of a real photo whose object is known."""
        photo = self.library.annotated[self.rng.integers(len(self.library.annotated))]
        rows, columns = photo.mask.shape
        share = self.rng.uniform(0.5, 1.0)
        scale = min(rows / height, columns / width) * share
        h, w = round(height * scale), round(width * scale)
        ys, xs = np.nonzero(photo.mask)
        kept = self.rng.integers(len(ys))  # a pixel of the object stays in the window
        top = int(np.clip(ys[kept] - self.rng.integers(h), 0, rows - h))
        left = int(np.clip(xs[kept] - self.rng.integers(w), 0, columns - w))
        window = np.s_[top : top + h, left : left + w]
        image = as_field(cv2.resize(photo.image[window], (width, height)))
        soft = cv2.resize(_soft(photo.mask[window]), (width, height))
        if self.rng.random() < 0.5:
            image, soft = image[:, ::-1], soft[:, ::-1]
        self.image = jitter(self.rng, image)
        region = self._new_region()
        self.regions[soft > 0.5] = region
        self.painted[region] = int(np.count_nonzero(soft > 0.5))
        self.objects.append([region])

    def _ground(self) -> None:
        """Divide the background by a wavy line; what lies below it is an object too."""
        height, width = self.regions.shape
        waves = cv2.resize(
            self.rng.random((1, int(self.rng.integers(2, 9))), dtype=np.float32),
            (width, 1),
            interpolation=cv2.INTER_CUBIC,
        )
        line = height * self.rng.uniform(0.3, 0.8) + height * self.rng.uniform(0, 0.3) * waves
        mask = (np.arange(height)[:, None] > line).astype(np.uint8)
        surface = paint(self.rng, self.library, height, width)
        self._place(mask, surface, 0, 0, self._new_region(), solid=False)
        self.objects.append([self.used])

    def _thing(self) -> None:
        """Add one thing with its parts, or a group of alike ones."""
        longest = FRAME * float(np.exp(self.rng.uniform(np.log(0.08), np.log(0.9))))
        shape, surface = self._shape_and_surface(longest)
        height, width = self.regions.shape
        top = int(self.rng.uniform(-0.2, 1.0) * height - shape.shape[0] * 0.3)
        left = int(self.rng.uniform(-0.2, 1.0) * width - shape.shape[1] * 0.3)
        whole = self._with_parts(shape, surface, top, left)
        if self.used < 200 and longest < 0.4 * FRAME and self.rng.random() < 0.3:
            group = list(whole)
            for _ in range(int(self.rng.integers(1, 4))):
                turn = self.rng.integers(2)
                step = shape.shape[1 - turn] * self.rng.uniform(0.75, 1.1)
                top, left = (int(top + step), left) if turn else (top, int(left + step))
                tone = np.float32(self.rng.uniform(0.8, 1.2))
                group += self._with_parts(shape, np.clip(surface * tone, 0, 1), top, left)
            self.objects.append(group)

    def _shape_and_surface(self, longest: float) -> tuple[Mask, Field]:
        kind = self.rng.random()
        if kind < 0.45:
            drawn = kind < 0.33
            source = self.library.drawings if drawn else self.library.cutouts
            shape, own = _pose(self.rng, source[self.rng.integers(len(source))], longest)
            if self.rng.random() < (0.65 if drawn else 0.9):
                return shape, jitter(self.rng, own)
        else:
            shape = draw_shape(self.rng, longest)
        if self.rng.random() < 0.12:  # a hole, through which the background shows
            hole = draw_shape(self.rng, longest * self.rng.uniform(0.2, 0.5))
            shape = shape.copy()
            _window(self.rng, shape, hole)[...] *= 1 - hole[: shape.shape[0], : shape.shape[1]]
        return shape, paint(self.rng, self.library, *shape.shape)

    def _with_parts(self, shape: Mask, surface: Field, top: int, left: int) -> list[int]:
        """Place a thing and up to three parts on it; return the regions of the whole."""
        whole = [self._new_region()]
        self._place(shape, surface, top, left, whole[0])
        if self.rng.random() < 0.4 and min(shape.shape) > 16:
            for _ in range(int(self.rng.integers(1, 4))):
                part = draw_shape(self.rng, max(shape.shape) * self.rng.uniform(0.15, 0.6))
                part = part[: shape.shape[0], : shape.shape[1]]
                y = int(self.rng.integers(shape.shape[0] - part.shape[0] + 1))
                x = int(self.rng.integers(shape.shape[1] - part.shape[1] + 1))
                part = part * shape[y : y + part.shape[0], x : x + part.shape[1]]
                if part.sum() < MIN_AREA:
                    continue
                region = self._new_region()
                painted = paint(self.rng, self.library, *part.shape)
                self._place(part, painted, top + y, left + x, region, solid=False)
                self.objects.append([region])
                whole.append(region)
        self.objects.append(list(whole))
        return whole

    def _place(
        self, shape: Mask, surface: Field, top: int, left: int, region: int, solid: bool = True
    ) -> None:
        """Paint a surface through a shape; a solid thing is shaded and throws a shadow."""
        height, width = self.regions.shape
        y0, x0 = max(0, top), max(0, left)
        y1, x1 = min(height, top + shape.shape[0]), min(width, left + shape.shape[1])
        self.painted[region] = 0
        if y0 >= y1 or x0 >= x1:
            return
        if solid and self.rng.random() < 0.35:
            self._shadow(shape, top, left)
        if solid and self.rng.random() < 0.6:
            surface = _shade(self.rng, surface, shape)
        inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        shape = np.ascontiguousarray(shape[inner])
        soft = np.asarray(cv2.GaussianBlur(_soft(shape), (3, 3), 0.7), np.float32)[:, :, None]
        target = self.image[y0:y1, x0:x1]
        target += (surface[inner] - target) * soft
        self.regions[y0:y1, x0:x1][shape > 0] = region
        self.painted[region] = int(np.count_nonzero(shape))

    def _shadow(self, shape: Mask, top: int, left: int) -> None:
        reach = max(shape.shape) * 0.12 + 2
        shift = self.rng.uniform(-reach, reach, 2).round()
        height, width = self.regions.shape
        move = np.array([[1, 0, left + shift[0]], [0, 1, top + shift[1]]], np.float64)
        cast = cv2.warpAffine(_soft(shape), move, (width, height))
        blur = float(self.rng.uniform(0.5, reach / 2))
        cast = cv2.GaussianBlur(cast, (0, 0), blur)
        self.image *= 1 - np.float32(self.rng.uniform(0.2, 0.7)) * cast[:, :, None]


def draw_shape(rng: np.random.Generator, longest: float) -> Mask:
    """Draw a random shape whose canvas is about `longest` pixels long."""
    ratio = rng.uniform(0.35, 1.0)
    height, width = max(4, int(longest)), max(4, int(longest * ratio))
    if rng.random() < 0.5:
        height, width = width, height
    mask: Mask = np.zeros((height, width), np.uint8)
    middle, half = (width // 2, height // 2), (width / 2 - 0.5, height / 2 - 0.5)
    kind = rng.integers(9)
    if kind == 0:
        cv2.ellipse(mask, (middle, (width - 1, height - 1), 0), 1, -1)
    elif kind == 1:
        mask[:] = 1
        tilt = cv2.getRotationMatrix2D(middle, rng.uniform(0, 180), rng.uniform(0.7, 1.0))
        turned = cv2.warpAffine(mask, tilt, (width, height), flags=cv2.INTER_NEAREST)
        mask = np.asarray(turned, np.uint8)
    elif kind == 2:
        cv2.ellipse(mask, (middle, (width - 1, height - 1), 0), 1, -1)
        inner = rng.uniform(0.3, 0.8)
        cv2.ellipse(mask, (middle, (width * inner, height * inner), 0), 0, -1)
    elif kind <= 5:  # a blob, a polygon or a star, all as radius over angle
        corners = int(rng.integers(3, 10)) if kind == 4 else 48
        angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 2 * np.pi)
        radius: NDArray[np.float64] = np.ones(corners)
        if kind == 3:
            for wave in range(1, 7):
                amount = rng.normal(0, 0.45 / wave)
                radius += amount * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        elif kind == 4:
            radius = rng.uniform(0.4, 1.0, corners)
        else:
            radius += rng.uniform(0.2, 0.6) * np.cos(int(rng.integers(3, 9)) * angle)
        radius = np.clip(radius, 0.1, None)
        radius /= radius.max()
        outline = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] * half + middle
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    elif kind == 6:  # something thin and winding
        count = int(rng.integers(3, 7))
        path = rng.uniform(0.05, 0.95, (count, 2)) * (width, height)
        path = np.asarray(cv2.resize(path, (2, 8 * count)), np.float64)
        thickness = max(2, int(longest * rng.uniform(0.03, 0.12)))
        cv2.polylines(mask, [path.round().astype(np.int32)], False, 1, thickness)
    else:  # a body with limbs
        body = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
        cv2.ellipse(mask, (middle, body, float(rng.uniform(0, 90))), 1, -1)
        for _ in range(int(rng.integers(1, 6))):
            end = int(rng.integers(width)), int(rng.integers(height))
            cv2.line(mask, middle, end, 1, max(2, int(longest * rng.uniform(0.04, 0.15))))
            if rng.random() < 0.4:
                cv2.circle(mask, end, max(2, int(longest * rng.uniform(0.05, 0.15))), 1, -1)
    return mask


def _pose(rng: np.random.Generator, thing: Cutout, longest: float) -> tuple[Mask, Field]:
    """Scale, turn and mirror a cut-out to about `longest` pixels; return its mask and colours."""
    rows, columns = thing.mask.shape
    scale = longest / max(rows, columns)
    angle = rng.normal(0, 12) if rng.random() < 0.7 else rng.uniform(0, 360)
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, scale)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    width, height = int(columns * cosine + rows * sine) + 2, int(columns * sine + rows * cosine) + 2
    turn[0, 2] += width / 2 - columns / 2
    turn[1, 2] += height / 2 - rows / 2
    image = cv2.warpAffine(
        thing.image, turn, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cv2.warpAffine(_soft(thing.mask), turn, (width, height))
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return (mask > 0.5).astype(np.uint8), as_field(image)


def _window(rng: np.random.Generator, shape: Mask, inner: Mask) -> Mask:
    """Return a view into `shape` of the size of `inner`, somewhere."""
    height, width = min(shape.shape[0], inner.shape[0]), min(shape.shape[1], inner.shape[1])
    top = int(rng.integers(shape.shape[0] - height + 1))
    left = int(rng.integers(shape.shape[1] - width + 1))
    return shape[top : top + height, left : left + width]


def _shade(rng: np.random.Generator, surface: Field, shape: Mask) -> Field:
    """Light a thing from one side: a ramp over it, or its rim as if it were round."""
    height, width = shape.shape
    if rng.random() < 0.5:
        corners = rng.uniform(0.5, 1.4, (2, 2)).astype(np.float32)
        light = np.asarray(cv2.resize(corners, (width, height)), np.float32)
    else:
        reach = max(1.0, min(shape.shape) * 0.12)
        soft = np.asarray(cv2.GaussianBlur(_soft(shape), (0, 0), reach), np.float32)
        light = 1 - np.float32(rng.uniform(0.3, 0.8)) * (1 - soft)
    return np.clip(surface * light[:, :, None], 0, 1)


def _photograph(rng: np.random.Generator, image: Field) -> Image:
    """Light, blur, add noise and compress: float (H, W, 3) in 0..1 to uint8."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        light = rng.uniform(0.7, 1.25, (3, 3)).astype(np.float32)
        light = np.asarray(cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC))
        image = image * light[:, :, None].astype(np.float32)
    if rng.random() < 0.4:
        blur = float(rng.uniform(0.4, 1.3))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur), np.float32)
    if rng.random() < 0.5:
        grain = np.float32(rng.uniform(0, 0.05))
        image = image + grain * rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.05:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        decoded = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
        pixels = np.asarray(decoded, np.uint8)
    return pixels


def _soft(mask: Mask) -> Field:
    """Return a mask of 0 and 1 as float32, for blurring and scaling."""
    return mask.astype(np.float32)
