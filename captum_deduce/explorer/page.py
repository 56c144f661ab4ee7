"""The page: its widgets, and which of them ask the desk for what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

from PIL import Image

from captum_deduce.explorer.collection import IN_ORDER, ORDERS
from captum_deduce.explorer.desk import PAGE, Desk
from captum_deduce.explorer.masks import painted_mask
from captum_deduce.explorer.requirement import require_gradio
from captum_deduce.explorer.stage import failure, message_html
from captum_deduce.explorer.uploads import FORMATS, check_size
from captum_deduce.explorer.visitors import Selection, Visitor

_HELLO = """\
<div class="hello"><h1>What would this image need to look like?</h1>
<p>Choose an image and a class; watch how little has to change until the model sees that class.</p>
</div>"""

_ANY = -1
"""The choice of no class in particular."""


class Page:
    """The widgets around a desk.

    Args:
        desk (Desk): Does the work.

    Raises:
        ImportError: gradio is not installed.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.gr = require_gradio()

    def build(self) -> Any:
        """Lay the page out.

        Returns:
            gradio.Blocks: Not launched.
        """
        with self.gr.Blocks(
            title="captum-deduce explorer",
            analytics_enabled=False,
            fill_width=True,
            delete_cache=(600, 3600),
        ) as blocks:
            self.gr.HTML(_HELLO)
            with self.gr.Row():
                with self.gr.Column(scale=4, min_width=280):
                    self._lay_out_images()
                    self._lay_out_question()
                with self.gr.Column(scale=8, min_width=280):
                    self._lay_out_answer()
            self._connect(blocks)
        return blocks

    def _lay_out_images(self) -> None:
        gr, collection = self.gr, self.desk.collection
        classes = [("any", _ANY), *self._classes()]
        labelled = collection.labels is not None
        self.shown = gr.Radio(
            list(collection.shown), value=self.desk.first_shown, label="Images", visible=labelled
        )
        with gr.Row():
            self.label = gr.Dropdown(
                classes, value=_ANY, label="True class", min_width=100, visible=labelled
            )
            self.prediction = gr.Dropdown(classes, value=_ANY, label="Seen as", min_width=100)
            self.order = gr.Dropdown(
                list(ORDERS), value=IN_ORDER, label="Order", min_width=130, elem_id="order"
            )
        self.known = gr.HTML(visible=False, elem_id="known")
        self.measure = gr.Button("Explain more", size="sm", visible=False, elem_id="measure")
        self.gallery = gr.Gallery(
            columns=5,
            height=240,
            allow_preview=False,
            object_fit="contain",
            format="png",
            buttons=[],
            interactive=False,
            show_label=False,
            elem_id="gallery",
        )
        self.page = gr.Slider(1, 2, value=1, step=1, label="Page", visible=False)
        with gr.Row():
            self.upload = gr.UploadButton(
                "Upload an image",
                file_types=[f".{kind}" for kind in ("png", "jpg", "jpeg", "webp", "bmp")],
                size="sm",
                elem_id="upload",
            )
            self.invert = gr.Checkbox(label="Invert it", container=False, min_width=120)

    def _lay_out_question(self) -> None:
        gr, names = self.gr, list(self.desk.explainers)
        with gr.Row():
            self.target = gr.Dropdown(
                self._classes(), label="Turn it into", min_width=150, elem_id="target"
            )
            self.explainer = gr.Dropdown(
                names, value=names[0], label="With", min_width=150, elem_id="explainer"
            )
        with gr.Row():
            self.start = gr.Button("Explain", variant="primary", min_width=100, elem_id="explain")
            self.stop = gr.Button("Stop", min_width=80, elem_id="stop")
        with gr.Accordion("Only change what I paint", open=False, elem_id="paint"):
            gr.HTML("Paint where the image may change. Nothing painted: everywhere.")
            self.editor = gr.ImageEditor(
                show_label=False,
                type="numpy",
                format="png",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(default_size=24, colors=["#ff3b30"], color_mode="fixed"),
                buttons=[],
                height=460,
                elem_id="editor",
            )
            _refuse_large_paintings(self.editor)

    def _lay_out_answer(self) -> None:
        gr, names = self.gr, list(self.desk.explainers)
        self.stage = gr.HTML(elem_id="stage")
        self.walk = gr.Slider(
            0, 1, value=1, step=1, label="Walk through the search", visible=False, elem_id="walk"
        )
        with gr.Accordion("Compare explainers on this image", open=False, elem_id="comparison"):
            self.names = gr.CheckboxGroup(names, value=names, show_label=False, container=False)
            self.compare = gr.Button("Compare", size="sm", elem_id="compare")
            self.compared = gr.HTML(elem_id="compared")
        with gr.Accordion("Keep it", open=False, elem_id="keep"):
            self.keep = gr.Button("Make the files", size="sm", elem_id="make-files")
            self.said = gr.HTML()
            self.files = gr.Files(
                label="Picture, animation, Counterfactuals, Python",
                interactive=False,
                visible=False,
            )
        with gr.Accordion("The same in Python", open=False, elem_id="python"):
            gr.HTML("The lines that make the same result, once there is one:")
            self.lines = gr.Code(
                language="python", interactive=False, show_label=False, lines=6, visible=False
            )

    def _classes(self) -> list[tuple[str, int]]:
        return [(name, number) for number, name in enumerate(self.desk.collection.class_names)]

    def _connect(self, blocks: Any) -> None:
        filters = [self.shown, self.label, self.prediction, self.order]
        browsed = [self.gallery, self.page, self.known, self.measure]
        chosen = [self.target, self.stage, self.editor, self.walk, self.compared, self.lines]
        chosen += [self.files, self.said]
        question = [self.target, self.editor]
        quick = {"show_progress": "hidden", "api_visibility": "private"}
        # Searches wait for their turn at the desk, where they can be stopped.
        search = {"concurrency_limit": None, **quick}
        blocks.load(self._told(self.on_load), None, [*browsed, *chosen], **quick)
        for widget in filters:
            widget.input(self._told(self.on_filter), [*filters, self.explainer], browsed, **quick)
        self.explainer.input(self._told(self.on_explainer), self.explainer, browsed, **quick)
        self.measure.click(self._told(self.on_measure), None, browsed, **search)
        self.page.release(self._told(self.on_page), self.page, self.gallery, **quick)
        self.gallery.select(self._told(self.on_choose, "at"), self.page, chosen, **quick)
        self.upload.upload(self._told(self.on_upload), [self.upload, self.invert], chosen, **quick)
        self.start.click(
            self._told(self.on_explain),
            [self.explainer, *question],
            [self.stage, self.walk, self.lines, self.files, self.said],
            **search,
        )
        self.compare.click(
            self._told(self.on_compare), [self.names, *question], self.compared, **search
        )
        self.stop.click(self._told(self.on_stop), None, None, queue=False, **quick)
        self.walk.input(
            self._told(self.on_walk), self.walk, self.stage, trigger_mode="always_last", **quick
        )
        self.keep.click(
            self._told(self.on_keep),
            None,
            [self.files, self.said],
            show_progress="minimal",
            api_visibility="private",
        )
        blocks.unload(self._told(self.desk.visitors.leave))

    def _told(self, handler: Callable[..., Any], event: str = "") -> Callable[..., Any]:
        """Let gradio pass on who asks, and what was chosen: it goes by the arguments' types."""
        kinds = handler.__func__.__annotations__  # type: ignore[attr-defined]
        kinds["request"] = self.gr.Request
        if event:
            kinds[event] = self.gr.SelectData
        return handler

    def on_load(self, request: Any) -> list[Any]:
        """A page opens.

        Args:
            request (gradio.Request): Whose.

        Returns:
            list: The gallery, its page, and what is shown of the first image.
        """
        visitor = self.desk.visitors.of(request)
        row = visitor.rows[0]
        target = self.desk.choose(visitor, row)
        return [*self._browsed(visitor), *self._shown(request, target)]

    def on_filter(
        self, shown: str, label: int, prediction: int, order: str, name: str, request: Any
    ) -> list[Any]:
        """Other images are asked for.

        Args:
            shown (str): Which kind.
            label (int): True class; -1: any.
            prediction (int): Class that the model sees; -1: any.
            order (str): Their order.
            name (str): The explainer whose costs count.
            request (gradio.Request): Who asks.

        Returns:
            list: The gallery, its page, and what is known of costs.
        """
        visitor = self.desk.visitors.of(request)
        wanted = Selection(shown, _chosen(label), _chosen(prediction), order, name)
        self.desk.select(visitor, wanted)
        return self._browsed(visitor)

    def on_explainer(self, name: str, request: Any) -> list[Any]:
        """Another explainer is chosen, whose costs may be others.

        Args:
            name (str): The explainer's.
            request (gradio.Request): Who chooses.

        Returns:
            list: The gallery, its page, and what is known of costs.
        """
        visitor = self.desk.visitors.of(request)
        return self._sorted_anew(visitor, replace(visitor.selection, name=name))

    def on_measure(self, request: Any) -> Iterator[list[Any]]:
        """More costs are to be found out.

        Args:
            request (gradio.Request): Who asks.

        Yields:
            list: The gallery, its page, and what is known of costs.
        """
        skip, visitor = self.gr.skip(), self.desk.visitors.of(request)
        try:
            for said in self.desk.measure(visitor):
                yield [skip, skip, said, skip]
        except Exception as error:  # the page lives on
            yield [skip, skip, message_html("error", failure(error)), skip]
            return
        yield self._sorted_anew(visitor, visitor.selection)

    def on_page(self, page: int, request: Any) -> Any:
        """Another part of the images is asked for.

        Args:
            page (int): Which, from 1.
            request (gradio.Request): Who asks.

        Returns:
            gradio.update: Of the gallery.
        """
        pictures, _ = self.desk.browse(self.desk.visitors.of(request), int(page))
        return self.gr.update(value=pictures, selected_index=None)

    def on_choose(self, page: int, request: Any, at: Any) -> list[Any]:
        """An image is chosen.

        Args:
            page (int): The gallery's.
            request (gradio.Request): Who chooses.
            at (gradio.SelectData): Which of the gallery.

        Returns:
            list: What is shown of it.
        """
        visitor = self.desk.visitors.of(request)
        place = (int(page) - 1) * PAGE + int(at.index)
        return self._shown(request, self.desk.choose(visitor, visitor.rows[place]))

    def on_upload(self, path: str, invert: bool, request: Any) -> list[Any]:
        """A file comes in.

        Args:
            path (str): Where it lies.
            invert (bool): Exchange black and white.
            request (gradio.Request): Whose.

        Returns:
            list: What is shown of it, or why it is not.
        """
        visitor = self.desk.visitors.of(request)
        try:
            target = self.desk.upload(visitor, path, invert=invert)
        except Exception as error:  # the model may refuse the image in its own way
            refused = self.desk.look(visitor, ("error", failure(error)))
            return [self.gr.skip(), refused, *[self.gr.skip()] * 6]
        return self._shown(request, target)

    def on_explain(
        self, name: str, target: int, editor: dict[str, Any] | None, request: Any
    ) -> Iterator[tuple[Any, ...]]:
        """A search begins.

        Args:
            name (str): The explainer's.
            target (int): The class to reach.
            editor (dict or None): What was painted.
            request (gradio.Request): Who asks.

        Yields:
            tuple: The stage, the slider through the search, Python, no files and no message.
        """
        gr, visitor = self.gr, self.desk.visitors.of(request)
        hidden, last = gr.update(visible=False), ""
        still = [hidden, hidden, hidden, ""]
        try:
            mask = painted_mask(editor, self.desk.collection.shape)
            for last in self.desk.explain(visitor, name, target, mask):
                yield last, *still
        except Exception as error:  # the page lives on
            yield self.desk.look(visitor, ("error", failure(error))), *still
            return
        search = visitor.search
        kept = len(search.course.images) if search is not None else 0
        walk = gr.update(visible=kept > 1, minimum=0, maximum=max(kept, 1), value=max(kept, 1))
        lines = self.desk.lines(visitor)
        yield last, walk, gr.update(value=lines, visible=bool(lines)), gr.skip(), gr.skip()

    def on_compare(
        self, names: list[str], target: int, editor: dict[str, Any] | None, request: Any
    ) -> Iterator[str]:
        """Several searches begin, one after the other.

        Args:
            names (list[str]): The explainers'.
            target (int): The class to reach.
            editor (dict or None): What was painted.
            request (gradio.Request): Who asks.

        Yields:
            str: The table so far.
        """
        visitor = self.desk.visitors.of(request)
        try:
            mask = painted_mask(editor, self.desk.collection.shape)
            yield from self.desk.compare(visitor, names, target, mask)
        except Exception as error:  # the page lives on
            yield message_html("error", failure(error))

    def on_stop(self, request: Any) -> None:
        """A visitor no longer wants to wait.

        Args:
            request (gradio.Request): Who.
        """
        self.desk.visitors.of(request).stop()

    def on_walk(self, at: int, request: Any) -> str:
        """An image on the way is asked for.

        Args:
            at (int): Which.
            request (gradio.Request): Who asks.

        Returns:
            str: The stage.
        """
        return self.desk.walk(self.desk.visitors.of(request), int(at))

    def on_keep(self, request: Any) -> tuple[Any, str]:
        """A visitor wants files.

        Args:
            request (gradio.Request): Who.

        Returns:
            tuple: The files, or why there are none.
        """
        try:
            files = self.desk.files(self.desk.visitors.of(request))
        except Exception as error:  # drawing runs the model, too
            return self.gr.update(visible=False), message_html("error", failure(error))
        return self.gr.update(value=files, visible=True), ""

    def _browsed(self, visitor: Visitor) -> list[Any]:
        gr, (pictures, pages) = self.gr, self.desk.browse(visitor, 1)
        page = gr.update(visible=pages > 1, maximum=max(pages, 2), value=1)
        gallery = gr.update(value=pictures, selected_index=None)
        if not visitor.selection.costed:
            return [gallery, page, gr.update(visible=False), gr.update(visible=False)]
        known, more = self.desk.known(visitor)
        button = gr.update(value=f"Explain {more} more", visible=more > 0)
        return [gallery, page, gr.update(value=known, visible=True), button]

    def _sorted_anew(self, visitor: Visitor, selection: Selection) -> list[Any]:
        """Where costs are what images are sorted by; else all stays as it is."""
        self.desk.select(visitor, selection)
        return self._browsed(visitor) if selection.costed else [self.gr.skip()] * 4

    def _shown(self, request: Any, target: int) -> list[Any]:
        """Of the image that was chosen, with all that belonged to the one before taken away."""
        visitor = self.desk.visitors.of(request)
        hidden, canvas = self.gr.update(visible=False), self.desk.canvas(visitor)
        return [target, self.desk.look(visitor), canvas, hidden, "", hidden, hidden, ""]


def _chosen(number: int) -> int | None:
    return None if number == _ANY else number


def _refuse_large_paintings(editor: Any) -> None:
    """Let an image editor look at the size of what it is sent before it decodes it.

    Not a subclass: gradio writes a file of types beside the module of one.
    """
    convert = editor.convert_and_format_image

    def checked(file: Any, **how: Any) -> Any:
        if file is not None:
            with Image.open(getattr(file, "path", None) or BytesIO(file), formats=FORMATS) as sent:
                check_size(sent)
        return convert(file, **how)

    editor.convert_and_format_image = checked
