"""Draws ``toybirds.jpg``, the sheet in the README: ``python experiments/toybirds/sheet.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genaug.data.toybirds import HABITATS, SPECIES, render

TILE, GAP, COLUMNS, LINE = 96, 4, 10, 20


def draw(species: int, habitat: int, number: int, sketch: bool = False) -> Image.Image:
    """One bird, drawn larger than it is shown."""
    scene = render(species, habitat, np.random.default_rng([7, species, habitat, number]), size=128, sketch=sketch)
    return Image.fromarray(scene.image).resize((TILE, TILE), Image.Resampling.BOX)


def main() -> None:
    """Each species at home, half of them elsewhere, the other half as sketches."""
    homes = [species.home for species in SPECIES]
    rows = {
        "at home (train, test)": [draw(number, home, 0) for number, home in enumerate(homes)],
        "elsewhere (ood_habitat)": [draw(n, (homes[n] + 3) % len(HABITATS), 1) for n in range(0, len(homes), 2)],
        "as sketches (ood_sketch)": [draw(n, homes[n], 2, sketch=True) for n in range(1, len(homes), 2)],
    }
    height = sum(LINE + 2 + (TILE + GAP) * -(-len(images) // COLUMNS) for images in rows.values()) + GAP
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, height), (250, 250, 248))
    pen, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(size=13), GAP
    for text, images in rows.items():
        pen.text((GAP, y), text, fill=(40, 40, 40), font=font)
        y += LINE
        for number, image in enumerate(images):
            sheet.paste(image, (GAP + number % COLUMNS * (TILE + GAP), y + number // COLUMNS * (TILE + GAP)))
        y += (TILE + GAP) * -(-len(images) // COLUMNS) + 2
    sheet.save(Path(__file__).with_name("toybirds.jpg"), quality=90)


if __name__ == "__main__":
    main()
