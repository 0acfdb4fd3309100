"""One module per template; each has ``draw(scene) -> Rendered`` and is listed in :mod:`glyphflow.render`."""
