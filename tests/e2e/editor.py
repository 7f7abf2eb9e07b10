"""The labeling screen of Label Studio, as an annotator uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from e2e.masks import Pixels, pixels, region_mask

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Locator, Page, Response

Tool = Literal["key-point-tool", "rectangle-tool"]

# Where the labels of each tool are in LABEL_CONFIG.
_LABEL_ROW: dict[Tool, int] = {"key-point-tool": 1, "rectangle-tool": 2}

# From the middle of a suggestion's lower edge, in pixels of the screen.
_CHECK_MARK = (16, 26)

# What an annotator's project holds; brush regions take the masks, and are no prompts.
LABEL_CONFIG = """
<View>
  <Image name="image" value="$image" rotateControl="true"/>
  <BrushLabels name="mask" toName="image" smart="false">
    <Label value="Dog" background="#ff0080"/>
    <Label value="Thing" background="#0060ff"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true">
    <Label value="Dog" background="#ff0080"/>
    <Label value="Thing" background="#0060ff"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">
    <Label value="Dog" background="#ff0080"/>
    <Label value="Thing" background="#0060ff"/>
  </RectangleLabels>
</View>
"""
# The screen without the list of tasks.
LABELING: FloatRect = {"x": 240, "y": 48, "width": 1260, "height": 902}
COLOURS = {"Dog": (0xFF, 0x00, 0x80), "Thing": (0x00, 0x60, 0xFF)}

# The canvas has the image's shape as soon as the editor knows the image and has its tools.
_IMAGE_IS_SHOWN = """() => {
  const box = document.querySelector(".konvajs-content")?.getBoundingClientRect();
  const image = [...document.images].find(
    (image) => image.src.startsWith("blob:") && image.naturalWidth);
  return Boolean(box?.height && image) &&
    Math.abs(box.width / box.height - image.naturalWidth / image.naturalHeight) < 0.02;
}"""


# Turned, the image is as high as the canvas and at its left.
_IMAGE_IS_TURNED = """() => {
  const box = document.querySelector(".konvajs-content").getBoundingClientRect();
  const image = [...document.images].find((image) => image.src.startsWith("blob:"));
  return Math.abs(box.width / box.height - image.naturalWidth / image.naturalHeight) > 0.02;
}"""
_IMAGE_RATIO = """() => {
  const image = [...document.images].find((image) => image.src.startsWith("blob:"));
  return image.naturalHeight / image.naturalWidth;
}"""


@dataclass(frozen=True)
class Answer:
    """What Label Studio asked the gateway after a prompt, and the regions it got."""

    prompts: list[dict[str, Any]]
    regions: list[dict[str, Any]]


class Editor:
    """One task in the browser. Coordinates are percent of the image's width and height."""

    def __init__(self, page: Page, url: str, task_id: int, backend_id: int) -> None:
        """Open a task and switch Auto-Annotation on."""
        self.page = page
        self.task_id = task_id
        self._auto_accept = False
        self._turned = False
        self._backend_id = backend_id
        page.goto(url)
        page.wait_for_function(_IMAGE_IS_SHOWN)
        self._toggle("bottombar-auto-annotation-toggle").click()
        self._smart_tools.first.wait_for()

    def click(self, label: str, x: float, y: float, *, negative: bool = False) -> Answer:
        """Click with a smart key point; a negative one is a click with Alt."""
        self._choose("key-point-tool", label)
        with self._answer() as answer:
            if negative:
                self.page.keyboard.down("Alt")
            self.page.mouse.move(*self._on_screen(x, y))
            self.page.mouse.down()
            self.page.mouse.up()
            if negative:
                self.page.keyboard.up("Alt")
        return answer()

    def drag(self, label: str, x_min: float, y_min: float, x_max: float, y_max: float) -> Answer:
        """Draw a smart rectangle."""
        self._choose("rectangle-tool", label)
        return self._pull((x_min, y_min), (x_max, y_max))

    def move(self, place: tuple[float, float], to: tuple[float, float]) -> Answer:
        """Move the key point at a place to another one."""
        self.page.locator("button[aria-label=move-tool]").click()
        return self._pull(place, to)

    def switch_auto_accept_on(self) -> None:
        """Let suggestions become regions at once."""
        self._toggle("bottombar-auto-accept-toggle").click()
        self._auto_accept = True

    @property
    def auto_accept(self) -> bool:
        """Whether suggestions become regions at once; not to be seen while one is open."""
        return self._by_test_id("bottombar-auto-accept-toggle").is_checked()

    def turn_right(self) -> None:
        """Turn the view by 90 degrees, clockwise."""
        self.page.locator("button[aria-label=rotate-right]").click()
        self.page.wait_for_function(_IMAGE_IS_TURNED)
        self._turned = True

    def reopen(self) -> None:
        """Open the page anew, with Auto-Annotation on as before."""
        self.page.reload()
        self.page.wait_for_function(_IMAGE_IS_SHOWN)
        self._smart_tools.first.wait_for()

    def turn_page(self) -> None:
        """Go to the next image of a task with several."""
        self.page.locator(".lsf-pagination__btn_arrow-right").first.click()
        self.page.wait_for_function(_IMAGE_IS_SHOWN)

    def accept(self) -> None:
        """Accept all suggestions."""
        button = self._by_test_id("bottombar-accept-suggestions-button")
        button.click()
        button.wait_for(state="detached")

    def accept_on_canvas(self, region: Mapping[str, Any]) -> None:
        """Accept a suggestion by the check mark below it, and wait until the draft has it."""
        rows, columns = np.nonzero(region_mask(region))
        x = (columns.min() + columns.max() + 1) / 2 * 100 / region["original_width"]
        y = (rows.max() + 1) * 100 / region["original_height"]
        left, top = self._on_screen(x, y)
        with self.page.expect_response(lambda response: _saves_draft(response, region["id"])):
            self.page.mouse.click(left + _CHECK_MARK[0], top + _CHECK_MARK[1])
            self._by_test_id("bottombar-accept-suggestions-button").wait_for(state="detached")

    def submit(self) -> None:
        """Submit the annotation and wait until it is stored."""
        self._store("bottombar-submit-button")

    def submit_suggestion(self) -> Answer:
        """Submit while a suggestion is open, of which Label Studio tells the gateway."""
        with self._answer() as answer:
            self.submit()
        return answer()

    def update(self) -> None:
        """Submit an annotation again, with what was changed."""
        self._store("bottombar-update-button")

    def canvas(self) -> Pixels:
        """Return what the image area shows now, upright."""
        shown = pixels(self._canvas.screenshot())
        if not self._turned:
            return shown
        return np.rot90(shown[:, : round(len(shown) * self._ratio())])

    def wait_for_regions(self, count: int) -> None:
        """Wait until the annotation has so many regions, prompts that are still open among them."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('.lsf-outliner-item').length === count", arg=count
        )

    @property
    def _canvas(self) -> Locator:
        return self.page.locator(".konvajs-content").first

    @property
    def _smart_tools(self) -> Locator:
        group = self.page.locator(".lsf-toolbar > .lsf-toolbar__group").last
        return group.locator("button.lsf-tool_smart")

    def _choose(self, tool: Tool, label: str) -> None:
        """Choose a smart tool and then a label: a label alone chooses the ordinary tool."""
        self._smart_tools.first.hover()
        chosen = self.page.locator(f".lsf-toolbar__smart button[aria-label={tool}]")
        chosen.click()
        self._canvas.hover(position={"x": 1, "y": 1})  # closes the menu of smart tools
        rows = self.page.locator(".lsf-labels")
        row = rows.nth(min(_LABEL_ROW[tool], rows.count() - 1))  # one may serve all tools
        item = row.locator(".lsf-label", has_text=label)
        item.click()
        self.page.locator(".lsf-tool_smart.lsf-tool_active").first.wait_for()
        row.locator(".lsf-label_selected", has_text=label).wait_for()

    def _store(self, button: str) -> None:
        with self.page.expect_response(_stores_annotation) as response:
            self._by_test_id(button).click()
        assert response.value.ok, response.value.text()

    def _pull(self, place: tuple[float, float], to: tuple[float, float]) -> Answer:
        with self._answer() as answer:
            self.page.mouse.move(*self._on_screen(*place))
            self.page.mouse.down()
            self.page.mouse.move(*self._on_screen(*to), steps=8)
            self.page.mouse.up()
        return answer()

    def _on_screen(self, x: float, y: float) -> tuple[float, float]:
        box = self._canvas.bounding_box()
        assert box
        width, height = box["width"], box["height"]
        if self._turned:
            x, y = 100 - y, x
            width = height * self._ratio()
        return box["x"] + width * x / 100, box["y"] + height * y / 100

    def _ratio(self) -> float:
        """Return the image's height as a part of its width."""
        ratio: float = self.page.evaluate(_IMAGE_RATIO)
        return ratio

    def _by_test_id(self, test_id: str) -> Locator:
        return self.page.locator(f"[data-testid={test_id}]")

    def _toggle(self, test_id: str) -> Locator:
        # The checkbox itself is covered by its label.
        return self.page.locator(f"label:has([data-testid={test_id}])")

    @contextmanager
    def _answer(self) -> Iterator[Callable[[], Answer]]:
        """Catch the request that the prompts made in the block cause."""
        path = f"/api/ml/{self._backend_id}/interactive-annotating"
        with self.page.expect_response(lambda response: response.url.endswith(path)) as caught:
            yield lambda: self._read(caught.value)

    def _read(self, response: Response) -> Answer:
        body = response.json()
        # Label Studio says 200 whatever the gateway answered.
        assert "errors" not in body, body
        data = body["data"]
        regions = data["result"] if data else []
        if regions and not self._auto_accept:
            self._by_test_id("bottombar-accept-suggestions-button").wait_for()
        asked: Any = response.request.post_data_json
        return Answer(asked["context"]["result"], regions)


def _stores_annotation(response: Response) -> bool:
    path = urlsplit(response.url).path
    return response.request.method in ("POST", "PATCH") and "/annotations" in path


def _saves_draft(response: Response, region_id: str) -> bool:
    return "/drafts" in response.url and region_id in (response.request.post_data or "")
