"""Other programs' exports, written here as they write them, from one truth: it comes back."""

import base64
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.data.coco import from_polygons, from_runs
from common.data.dataset import open_dataset, survey
from common.data.formats import CITYSCAPES, Format
from common.data.importing import SHEET, import_data
from common.errors import InputError
from parity_tests.network.witnesses import import_torchvision

Labels = NDArray[np.uint8]
CLASSES = ("background", "ball", "box")
COLOURS = ((0, 0, 0), (250, 50, 83), (51, 221, 255))
NAMES = [f"im{k}" for k in range(6)]


def truth(name: str) -> Labels:
    """A rectangle of each class, elsewhere in each picture; void in a corner."""
    k = int(name[-1])
    label = np.zeros((24, 36), np.uint8)
    label[2 + k : 9 + k, 3:14] = 1
    label[5 : 12 + k, 20 : 25 + k] = 2
    return label


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (36, 24), (90, 60, 7 * int(path.stem[2]))).save(path)


def write_indices(path: Path, label: Labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def write_colours(path: Path, label: Labels) -> None:
    write_indices(path, np.array(COLOURS, np.uint8)[label])


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cvat(folder: Path) -> None:
    lines = [f"{n}:{','.join(map(str, c))}::" for n, c in zip(CLASSES, COLOURS, strict=True)]
    lines[1] = lines[1].replace("::", ":seam,patch:roll,bounce")
    write_text(folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines]))
    write_text(folder / "ImageSets/Segmentation/default.txt", "\n".join(NAMES))
    for name in NAMES:
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        write_colours(folder / "SegmentationClass" / f"{name}.png", truth(name))


def labelme_json(folder: Path) -> None:
    for name in NAMES:
        write_image(folder / f"{name}.jpg")
        shapes = []
        for label in (1, 2):
            rows, columns = np.nonzero(truth(name) == label)
            corners = [
                [float(columns.min()), float(rows.min())],
                [float(columns.max()), float(rows.max())],
            ]
            (x0, y0), (x1, y1) = corners
            box = {"label": CLASSES[label], "points": corners, "shape_type": "rectangle"}
            polygon = {"label": CLASSES[label], "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
            shapes.append(box if label == 1 else polygon | {"shape_type": "polygon"})
        content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"..\\raw\\{name}.jpg"}
        write_text(folder / f"{name}.json", json.dumps(content))


def test_circles_are_drawn_through_their_second_point(tmp_path: Path) -> None:
    for name in NAMES[:2]:
        write_image(tmp_path / "src" / f"{name}.jpg")
        circle = {"label": "ball", "points": [[15, 11], [19, 8]], "shape_type": "circle"}
        content = {"shapes": [circle], "imagePath": f"{name}.jpg"}
        write_text(tmp_path / "src" / f"{name}.json", json.dumps(content))
    import_data(Format.labelme, tmp_path / "src", tmp_path / "dst", seed=0)
    _, label = open_dataset(tmp_path / "dst", "train").read(0)
    rows, columns = np.mgrid[:24, :36]
    apart = np.hypot(columns - 15, rows - 11) - 5  # sides of 4 and 3
    assert (label[apart < -0.6] == 1).all() and (label[apart > 0.6] == 0).all()


def labelme2voc(folder: Path, masks: str = "SegmentationClass") -> None:
    write_text(folder / "class_names.txt", "\n".join(["__ignore__", "_background_", *CLASSES[1:]]))
    for name in NAMES:
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        write_indices(folder / masks / f"{name}.png", truth(name))


def roboflow(folder: Path) -> None:
    for part, names in {"train": NAMES[:3], "valid": NAMES[3:5], "test": NAMES[5:]}.items():
        rows = [f"{k}, {name}" for k, name in enumerate(CLASSES)]
        write_text(folder / part / "_classes.csv", "\n".join(["Pixel Value, Class", *rows]))
        for name in names:
            write_image(folder / part / f"{name}.jpg")
            write_indices(folder / part / f"{name}_mask.png", truth(name))


def folders_in_colours(folder: Path) -> None:
    rows = [f"{n},{r},{g},{b}" for n, (r, g, b) in zip(CLASSES, COLOURS, strict=True)]
    write_text(folder / "classes.csv", "\n".join(["name,red,green,blue", *rows]))
    for name in NAMES:
        write_image(folder / "images" / f"{name}.PNG")
        write_colours(folder / "masks" / f"{name}.png", truth(name))


def folders_of_indices(folder: Path) -> None:
    write_text(folder / "classes.txt", "\n".join(CLASSES))
    for name in NAMES:
        write_image(folder / "images" / f"{name}.jpeg")
        write_indices(folder / "masks" / f"{name}_mask.png", truth(name))


def polygons(mask: Labels) -> list[list[float]]:
    """A rectangle, by the edges of its pixels."""
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [[float(n) for n in (x0, y0, x1, y0, x1, y1, x0, y1)]]


def run_lengths(mask: Labels) -> dict[str, Any]:
    """COCO's run lengths as numbers, counted here."""
    counts, before = [0], 0
    for value in mask.T.ravel().tolist():
        if value != before:
            counts.append(0)
        counts[-1] += 1
        before = value
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: Labels) -> dict[str, Any]:
    """COCO's run lengths as text, by its own program."""
    found = pycocotools.mask.encode(np.asfortranarray(mask))
    return found | {"counts": found["counts"].decode()}


def instances(names: list[str], segmentation: Callable[[Labels], object]) -> dict[str, Any]:
    """Ids of images and categories that are neither small nor in order."""
    return {
        "images": [
            {"id": 700 + int(n[-1]), "file_name": f"{n}.jpg", "width": 36, "height": 24}
            for n in names
        ],
        "annotations": [
            {
                "id": 10 * int(name[-1]) + label,
                "image_id": 700 + int(name[-1]),
                "category_id": {1: 18, 2: 90}[label],
                "iscrowd": 0,
                "segmentation": segmentation((truth(name) == label).astype(np.uint8)),
            }
            for name in names
            for label in (2, 1)
        ],
        "categories": [{"id": 90, "name": "box"}, {"id": 18, "name": "ball"}],
    }


def coco(folder: Path, segmentation: Callable[[Labels], object]) -> None:
    for split, names in {"train2017": NAMES[:4], "val2017": NAMES[4:]}.items():
        content = instances(names, segmentation)
        write_text(folder / f"annotations/instances_{split}.json", json.dumps(content))
        write_text(folder / f"annotations/captions_{split}.json", "{}")
        for name in names:
            write_image(folder / split / f"{name}.jpg")


def coco_of_roboflow(folder: Path) -> None:
    for part, names in {"train": NAMES[:3], "valid": NAMES[3:5], "test": NAMES[5:]}.items():
        content = instances(names, polygons)
        write_text(folder / part / "_annotations.coco.json", json.dumps(content))
        for name in names:
            write_image(folder / part / f"{name}.jpg")


def coco_panoptic(folder: Path) -> None:
    """Ids of segments of more than a byte; void where there is none."""
    ids = np.array([70_000, 256, 3])
    content = instances(NAMES, polygons)
    content["categories"] += [{"id": 7, "name": "background"}]
    content["annotations"] = [
        {
            "image_id": image["id"],
            "file_name": image["file_name"].replace("jpg", "png"),
            "segments_info": [
                {"id": int(ids[label]), "category_id": category}
                for label, category in enumerate((7, 18, 90))
            ],
        }
        for image in content["images"]
    ]
    write_text(folder / "annotations/panoptic_val2017.json", json.dumps(content))
    for name in NAMES:
        write_image(folder / f"val2017/{name}.jpg")
        codes = ids[truth(name)]
        rgb = np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=-1).astype(np.uint8)
        write_indices(folder / f"annotations/panoptic_val2017/{name}.png", rgb)


EXPORTS: dict[str, tuple[Format, Callable[[Path], None]]] = {
    "cvat": (Format.cvat, cvat),
    "labelme json": (Format.labelme, labelme_json),
    "labelme2voc": (Format.labelme, labelme2voc),
    "labelme2voc of old": (Format.labelme, lambda f: labelme2voc(f, "SegmentationClassPNG")),
    "roboflow": (Format.roboflow, roboflow),
    "coco, polygons": (Format.coco, lambda f: coco(f, polygons)),
    "coco, run lengths": (Format.coco, lambda f: coco(f, run_lengths)),
    "coco, compressed": (Format.coco, lambda f: coco(f, compressed)),
    "coco of Roboflow": (Format.coco, coco_of_roboflow),
    "coco panoptic": (Format.coco_panoptic, coco_panoptic),
    "folders in colours": (Format.folders, folders_in_colours),
    "folders of indices": (Format.folders, folders_of_indices),
}


@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_comes_back_as_it_was_drawn(export: str, tmp_path: Path) -> None:
    kind, write = EXPORTS[export]
    write(tmp_path / "src")
    found = import_data(kind, tmp_path / "src", tmp_path / "dst", seed=0)
    first = "_background_" if "labelme" in export else "background"
    assert found.class_names == (first, *CLASSES[1:])
    given = {"train": NAMES[:3], "val": NAMES[3:5], "test": NAMES[5:]}
    splits = {s: list(open_dataset(tmp_path / "dst", s).names) for s in found.splits}
    if "oboflow" in export:
        assert splits == given
    assert sorted(name for names in splits.values() for name in names) == NAMES
    for split in splits:
        dataset = open_dataset(tmp_path / "dst", split)
        for k, name in enumerate(dataset.names):
            np.testing.assert_array_equal(dataset.read(k)[1], truth(name))
    assert survey(tmp_path / "dst").faults == []
    with Image.open(tmp_path / "dst" / SHEET) as page:
        assert page.width > 2 * 36


def test_the_seed_draws_val_where_there_are_no_lists(tmp_path: Path) -> None:
    cvat(tmp_path / "src")
    vals = set()
    for seed in (0, 0, 1, 2, 3):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        found = import_data(Format.cvat, tmp_path / "src", out, seed)
        assert found.splits == {"train": 5, "val": 1}
        vals.add((seed, open_dataset(out, "val").names))
    assert len(vals) == 4
    assert len({names for _, names in vals}) > 1


def png(mask: NDArray[np.bool_]) -> str:
    """As labelme keeps a mask in its JSON."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


SHAPES: dict[str, tuple[list[list[float]], Callable[[int, int], bool]]] = {
    # a point has a radius of 5 there, and a line a width of 10; a pixel counts by its middle
    "polygon": ([[5, 5], [25, 5], [25, 15], [5, 15]], lambda x, y: 5 <= x <= 25 and 5 <= y <= 15),
    "rectangle": ([[25, 15], [5, 5]], lambda x, y: 5 <= x <= 25 and 5 <= y <= 15),
    "line": ([[0, 10], [35, 10]], lambda x, y: 6 <= y <= 15),
    "linestrip": ([[0, 10], [20, 10], [35, 10]], lambda x, y: 6 <= y <= 15),
    "circle": ([[15, 12], [15, 19]], lambda x, y: math.hypot(x - 15, y - 12) <= 7.5),
    "point": ([[15, 12]], lambda x, y: math.hypot(x - 15, y - 12) <= 5.5),
    "points": ([[15, 12]], lambda x, y: math.hypot(x - 15, y - 12) <= 5.5),
    "mask": ([[5, 6], [8, 9]], lambda x, y: (x, y) in {(5, 6), (8, 7)}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_shape_of_labelme_is_drawn_as_it_draws(kind: str, tmp_path: Path) -> None:
    points, inside = SHAPES[kind]
    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool)
    shape = {"label": "ball", "points": points, "shape_type": kind}
    shape |= {"mask": png(mask)} if kind == "mask" else {}
    for name in ("im0", "im1"):
        write_image(tmp_path / "src" / f"{name}.jpg")
        content = {"shapes": [shape], "imagePath": f"{name}.jpg"}
        write_text(tmp_path / "src" / f"{name}.json", json.dumps(content))
    import_data(Format.labelme, tmp_path / "src", tmp_path / "dst", seed=0)
    _, label = open_dataset(tmp_path / "dst", "train").read(0)
    expected = np.array([[inside(x, y) for x in range(36)] for y in range(24)])
    np.testing.assert_array_equal(label == 1, expected)
    assert 0 < expected.sum() < expected.size


def test_cityscapes_ids_become_the_classes_that_count(tmp_path: Path) -> None:
    ids = np.arange(34, dtype=np.uint8)[None].repeat(2, 0)
    for split in ("train", "val"):
        image = tmp_path / "src/leftImg8bit" / split / "ulm" / f"{split}_leftImg8bit.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (34, 2)).save(image)
        mask = tmp_path / "src/gtFine" / split / "ulm" / f"{split}_gtFine_labelIds.png"
        write_indices(mask, ids)
    found = import_data(Format.cityscapes, tmp_path / "src", tmp_path / "dst", seed=0)
    assert (len(found.class_names), found.splits) == (19, {"train": 1, "val": 1})
    _, label = open_dataset(tmp_path / "dst", "val").read(0)
    for id_, train_id in zip(ids[0].tolist(), label[0].tolist(), strict=True):
        name = found.class_names[train_id] if train_id != 255 else None
        assert CITYSCAPES.get(name or "", -1) in ((id_,) if name else (-1,))
    assert (label[0] == 255).sum() == 34 - 19


def test_run_lengths_are_those_of_coco_s_own_program() -> None:
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 0.99, 1):
        mask = (rng.random((61, 97)) < share).astype(np.uint8)
        counts = compressed(mask)["counts"]
        np.testing.assert_array_equal(from_runs(counts, 61, 97), mask)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of NumPy 2, in `decode`
def test_polygons_are_those_of_coco_s_own_program() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.uniform(-5, 70, (8, 10)).tolist()
    runs = pycocotools.mask.frPyObjects(shapes, 61, 97)
    expected = pycocotools.mask.decode(runs).any(axis=-1)
    np.testing.assert_array_equal(from_polygons(shapes, 61, 97), expected)


def test_without_pycocotools_run_lengths_are_read_and_polygons_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, segmentation in {"a": run_lengths, "b": polygons}.items():
        coco(tmp_path / name, segmentation)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    import_data(Format.coco, tmp_path / "a", tmp_path / "dst", seed=0)
    with pytest.raises(InputError, match="need pycocotools; install with: pip install pycocoto"):
        import_data(Format.coco, tmp_path / "b", tmp_path / "none", seed=0)


def test_instances_that_overlap_are_void_there(tmp_path: Path) -> None:
    coco(tmp_path / "src", polygons)
    for path in (tmp_path / "src").glob("annotations/instances_*.json"):
        content = json.loads(path.read_text())
        more = [
            a | {"segmentation": [[16.0, 0, 22, 0, 22, 24, 16, 24]], "category_id": 18}
            for a in content["annotations"][::2]
        ]
        content["annotations"] += more + more  # twice of one class is no clash
        path.write_text(json.dumps(content))
    import_data(Format.coco, tmp_path / "src", tmp_path / "dst", seed=0)
    _, label = open_dataset(tmp_path / "dst", "train").read(0)
    expected = truth("im0")
    expected[:, 16:22] = np.where(expected[:, 16:22] == 2, 255, 1)
    np.testing.assert_array_equal(label, expected)


def edit(**changes: Any) -> Callable[[Path], None]:
    """Other values of the first annotation."""

    def spoil(folder: Path) -> None:
        path = folder / "annotations/instances_train2017.json"
        content = json.loads(path.read_text())
        content["annotations"][0] |= changes
        path.write_text(json.dumps(content))

    return spoil


def lead_out(folder: Path) -> None:
    path = folder / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace("im0.jpg", "../../../im0.jpg"))


def test_cityscapes_classes_are_those_of_torchvision_s_table() -> None:
    table = import_torchvision().datasets.Cityscapes.classes
    trained = sorted((c for c in table if not c.ignore_in_eval), key=lambda c: c.train_id)
    assert list(CITYSCAPES.items()) == [(c.name, c.id) for c in trained]


def test_an_empty_folder_may_be_filled_and_a_file_may_not(tmp_path: Path) -> None:
    cvat(tmp_path / "src")
    (tmp_path / "dst").mkdir()
    assert import_data(Format.cvat, tmp_path / "src", tmp_path / "dst", seed=0).faults == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: exists and is not an empty folder"):
        import_data(Format.cvat, tmp_path / "src", tmp_path / "file", seed=0)


def test_further_faults_are_counted(tmp_path: Path) -> None:
    folders_of_indices(tmp_path / "src")
    for name in NAMES[1:4]:
        Image.new("L", (3, 4)).save(tmp_path / "src/masks" / f"{name}_mask.png")
    with pytest.raises(InputError, match=r"im1\.png: 3x4 pixels, but .* \(and 2 more\)$"):
        import_data(Format.folders, tmp_path / "src", tmp_path / "dst", seed=0)


def change(path: str, text: str) -> Callable[[Path], None]:
    return lambda folder: write_text(folder / path, text)


OF_ANOTHER_TYPE = {
    "shapes": [{"label": "box", "points": [], "shape_type": "cuboid"}],
    "imagePath": "im0.jpg",
}

SPOILT: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a colour of no class": (
        "cvat",
        change("labelmap.txt", "background:0,0,0::\nball:250,50,83::\n"),
        "SegmentationClass/im0.png: colours of no class: #33ddff",
    ),
    "a colour that is none": (
        "cvat",
        change("labelmap.txt", "background:0,0::\n"),
        r"labelmap.txt: background: no colour of three numbers",
    ),
    "no labelmap": ("cvat", lambda f: (f / "labelmap.txt").unlink(), "labelmap.txt: no such file"),
    "names that lead out": (
        "cvat",
        change("ImageSets/Segmentation/default.txt", "../../im0\n"),
        "names that lead out of it: ../../im0",
    ),
    "an image that is missing": (
        "cvat",
        lambda folder: (folder / "JPEGImages/im1.jpg").unlink(),
        "JPEGImages/im1.jpg: no such file",
    ),
    "json of another program": ("labelme json", change("im0.json", "[1]"), "im0.json: cannot be"),
    "json nested deep": ("labelme json", change("im0.json", "[" * 99999), "im0.json: cannot be"),
    "a shape of another type": (
        "labelme json",
        change("im0.json", json.dumps(OF_ANOTHER_TYPE)),
        "im0.json: cannot be read: a shape of a type that is not known: cuboid",
    ),
    "a class that labels.txt lacks": (
        "labelme json",
        change("labels.txt", "__ignore__\n_background_\nball\n"),
        "labels.txt: lacks box, as which shapes are labelled",
    ),
    "pixel values out of order": (
        "roboflow",
        change("valid/_classes.csv", "Pixel Value, Class\n1, background\n0, ball\n"),
        "_classes.csv: its pixel values are not 0, 1, 2",
    ),
    "classes that differ": (
        "roboflow",
        change("valid/_classes.csv", "Pixel Value, Class\n0, background\n1, box\n"),
        "valid/_classes.csv: other classes than",
    ),
    "a box without a mask": (
        "coco, polygons",
        edit(segmentation=[]),
        "train2017.json: cannot be read: annotation 2 has no segmentation: a box is no mask",
    ),
    "run lengths of another image": (
        "coco, polygons",
        edit(segmentation={"size": [24, 36], "counts": [3, 9]}),
        "train2017.json: cannot be read: run lengths that do not fill 36x24 pixels",
    ),
    "run lengths below 0": (
        "coco, polygons",
        edit(segmentation={"size": [24, 36], "counts": [-3, 24 * 36 + 3]}),
        "train2017.json: cannot be read: run lengths that do not fill 36x24 pixels",
    ),
    "run lengths that end in the middle": (
        "coco, polygons",
        edit(segmentation={"size": [24, 36], "counts": "ooo"}),
        "train2017.json: cannot be read: a segmentation that is no text of COCO's",
    ),
    "a mask of another size": (
        "coco, polygons",
        edit(segmentation={"size": [240, 360], "counts": [240 * 360]}),
        "train2017.json: cannot be read: annotation 2 is of another size than its image",
    ),
    "a huge polygon": (
        "coco, polygons",
        edit(segmentation=[[0, 0, 1e12, 0, 1e12, 1e12]]),
        "train2017.json: cannot be read: a polygon of less than three corners, or a huge one",
    ),
    "a category that is none": (
        "coco, polygons",
        edit(category_id=5),
        "train2017.json: cannot be read: 5",
    ),
    "an image elsewhere": ("coco, polygons", lead_out, "a name that leads out of it: ../../../im0"),
    "no lists of COCO's": (
        "coco, polygons",
        change("annotations/instances_train2017.json", '{"images": []}'),
        "train2017.json: cannot be read: it lacks annotations, categories",
    ),
    "a segment that is not listed": (
        "coco panoptic",
        lambda folder: write_colours(folder / "annotations/panoptic_val2017/im3.png", truth("im3")),
        "im3.png: segments that panoptic_val2017.json does not list: 5452538",
    ),
    "no classes": (
        "folders in colours",
        lambda folder: (folder / "classes.csv").unlink(),
        "which classes are there",
    ),
    "masks of another size": (
        "folders of indices",
        lambda f: Image.new("L", (3, 4)).save(f / "masks/im2_mask.png"),
        "of what was made of it, SegmentationClass/im2.png: 3x4 pixels",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_bad_export_is_one_line_and_makes_nothing(what: str, tmp_path: Path) -> None:
    export, spoil, says = SPOILT[what]
    kind, write = EXPORTS[export]
    write(tmp_path / "src")
    spoil(tmp_path / "src")
    with pytest.raises(InputError, match=says) as refused:
        import_data(kind, tmp_path / "src", tmp_path / "dst", seed=0)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize("kind", Format)
def test_an_empty_folder_is_of_no_format(kind: Format, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(InputError, match=str(tmp_path / "src")):
        import_data(kind, tmp_path / "src", tmp_path / "dst", seed=0)


def test_the_command(tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]) -> None:
    roboflow(tmp_path / "src")
    code, out, err = run_command("data", "import", "roboflow", tmp_path / "src", tmp_path / "dst")
    assert (code, err) == (0, "")
    assert "pairs    test 1, train 3, val 2" in out
    code, _, err = run_command("data", "import", "roboflow", tmp_path / "src", tmp_path / "dst")
    assert (code, err) == (2, f"error: {tmp_path / 'dst'}: exists and is not an empty folder\n")
