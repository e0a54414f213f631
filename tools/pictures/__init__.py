"""The pictures of the docs, as SVG that needs no font, script or picture from elsewhere."""
