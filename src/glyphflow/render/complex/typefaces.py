"""The typefaces of one design: a family for headings, one for the rest, for each script, regular and bold."""

from __future__ import annotations

from collections.abc import Sequence

from glyphflow.render.fonts import Font
from glyphflow.render.layout import has_cjk, require_fonts
from glyphflow.render.params import Language
from glyphflow.render.scene import Scene

_STYLES = {
    "body": ("sans", "sans", "serif"),
    "heading": ("sans", "serif", "slab", "display"),
    **{style: (style,) for style in ("sans", "serif", "slab", "display", "script", "mono")},
}


class Typefaces:
    """Chooses families by the scene's random stream when a role first asks; fonts that the spec names decide alone."""

    def __init__(self, scene: Scene, language: Language) -> None:
        self._scene = scene
        self._rng = scene.rng
        self._chosen: dict[tuple[str, str], tuple[Font, Font]] = {}
        fonts, named = scene.fonts, scene.params.fonts
        names = named if named is not None else fonts.names(split="train")
        self._names = [
            name
            for name in names
            if "emoji" not in (entry := fonts.entry(name)).scripts
            and not entry.caps_only
            and (scene.params.styles is None or entry.style in scene.params.styles)
            and (scene.params.licences is None or entry.licence in scene.params.licences)
        ]
        marks = [name for name in (named or fonts.names()) if fonts.entry(name).style == "symbol"]
        self.emoji: Font | None = fonts.font(marks[0]) if marks else None
        self._wanted: dict[str, str] = {}
        # The script that fills the page decides on a style, which the other then keeps where it can.
        for script in ("cjk", "latin") if language == "zh" else ("latin", "cjk"):
            for role in ("body", "heading"):
                self._pair(role, script)

    def face(self, text: str, role: str, bold: bool) -> Font | None:
        """The face for ``text``, or None when it lacks one of its characters."""
        script = "cjk" if has_cjk(text) else "latin"
        pair = self._pair(role, script)
        if pair is not None and pair[bold].covers(text) and not pair[bold].shape(text).missing:
            return pair[bold]
        # The other fonts of the script, and for Latin the CJK faces, which draw it as well.
        for name in self._names:
            font = self._scene.fonts.font(name)
            if script in font.entry.scripts and font.covers(text) and not font.shape(text).missing:
                return font
        return None

    def require(self, texts: Sequence[str]) -> None:
        """:class:`InputError` naming a character when a text has no font."""
        require_fonts(self._rng, self._scene.fonts, self._names, texts)

    def _pair(self, role: str, script: str) -> tuple[Font, Font] | None:
        """(regular, bold) of the family of ``role``; the same face twice where a family has one weight."""
        key = (role, script)
        if key not in self._chosen:
            fonts = self._scene.fonts
            own = [name for name in self._names if script in fonts.entry(name).scripts]
            if script == "latin":  # the CJK faces draw Latin, too: the last resort
                own = [name for name in own if "cjk" not in fonts.entry(name).scripts] or own
            if not own:
                return None
            styles: tuple[str, ...] = _STYLES[role]
            fitting = [name for name in own if fonts.entry(name).style in styles]
            if fitting:
                there: set[str] = {fonts.entry(name).style for name in fitting}
                wanted = self._rng.choice([style for style in styles if style in there])
                if self._wanted.setdefault(role, wanted) in there:
                    wanted = self._wanted[role]
                fitting = [name for name in fitting if fonts.entry(name).style == wanted]
            families = list(dict.fromkeys(fonts.entry(name).family for name in (fitting or own)))
            family = self._rng.choice(families)
            members = [name for name in own if fonts.entry(name).family == family]
            regular = next((name for name in members if name.endswith("-regular")), members[0])
            heavy = [name for name in members if name.endswith(("-bold", "-black"))]
            bold = self._rng.choice(heavy) if heavy and role == "heading" else heavy[0] if heavy else regular
            self._chosen[key] = (fonts.font(regular), fonts.font(bold))
        return self._chosen[key]
