"""Mistakes in the port's own way of images and labels to the network."""

from parity_tests.mutations.apply import Fault, Patch, everywhere, fault

_IMAGES = "images_to_device(images,"
_PICTURE = "[:, :, :height, :width]"


def _counted(
    name: str, why: str, expected: str, old: str, new: str, counts: tuple[int, int, int]
) -> Fault:
    """A fault whose patch is the same text in each `train.py`, where it stands so many times."""
    torch, mxnet, jax = (Patch("train", old, new, count) for count in counts)
    return fault(name, why, expected, torch=torch, mxnet=mxnet, jax=jax)


def _images(name: str, why: str, expression: str) -> Fault:
    """The images replaced where `train.py` takes them in, for evaluation and for training."""
    new = _IMAGES.replace("(images", f"({expression}")
    return _counted(name, why, "eval/stem", _IMAGES, new, (1, 2, 2))


def _labels(expression: str) -> Patch:
    return Patch("train", "label_cells(labels)", f"label_cells({expression})")


_ROWS, _COLUMNS = "-images.shape[2] % 32", "-images.shape[3] % 32"
_WIDER = f"((0, 0), (0, 0), (0, {_ROWS}), (0, {_COLUMNS}))"
_BEFORE = f"((0, 0), (0, 0), ({_ROWS}, 0), ({_COLUMNS}, 0))"


def _padded_before(count: int) -> tuple[Patch, Patch]:
    """Images, which stand so many times, and labels padded at the top and at the left."""
    return (
        Patch("train", _IMAGES, f"images_to_device(np.pad(images, {_BEFORE}),", count),
        _labels(
            "np.pad(labels, ((0, 0), (-labels.shape[1] % 32, 0), (-labels.shape[2] % 32, 0)),"
            " constant_values=255)"
        ),
    )


FAULTS: list[Fault] = [
    _images(
        "image_bgr",
        "OpenCV and old Caffe recipes read blue first, Pillow red.",
        "images[:, ::-1]",
    ),
    _images(
        "image_rows_flipped",
        "An axis is reversed in the image alone: a BMP's rows, an augmentation left on.",
        "images[:, :, ::-1]",
    ),
    _images(
        "image_columns_flipped",
        "The random flip of the port mirrors the image and not the label.",
        "images[..., ::-1]",
    ),
    _images(
        "image_height_and_width_swapped",
        "Pillow's size is (width, height), an array's shape (height, width).",
        "images.swapaxes(2, 3).reshape(images.shape)",
    ),
    _images(
        "image_reshaped_to_layout",
        "Channels-last data are reshaped to (3, H, W) where they should be transposed.",
        "images.transpose(0, 2, 3, 1).reshape(images.shape)",
    ),
    _images(
        "image_normalised_twice",
        "Both the loader and the model subtract the mean and divide by the deviation.",
        "(images - 0.45) / 0.225",
    ),
    _images(
        "image_scaled_by_255",
        "One side works on 0..1, the other on 0..255.",
        "images * 255",
    ),
    _images(
        "image_standardised_by_itself",
        "per_image_standardization takes the mean of each image, not of the data set.",
        "images - images.mean(axis=(2, 3), keepdims=True)",
    ),
    _images(
        "image_crop_one_pixel_off",
        "The image's crop starts one pixel later than the label's.",
        "np.roll(images, -1, axis=3)",
    ),
    _images(
        "image_in_float32",
        "The loader makes float32 of the images, also in a float64 run.",
        "images.astype(np.float32)",
    ),
    _images(
        "image_in_float16",
        "The loader stores normalised images in half precision to save space.",
        "images.astype(np.float16)",
    ),
    fault(
        "padded_at_top_left",
        "Padding to a multiple of 32 is put before the image, cropping starts at 0.",
        "eval/stem",
        torch=_padded_before(1),
        mxnet=_padded_before(2),
        jax=_padded_before(2),
    ),
    _images(
        "padded_with_the_edge",
        "The image is padded by repeating its last row and column, not with zeros.",
        f"np.pad(images, {_WIDER}, mode='edge')",
    ),
    _counted(
        "logits_cropped_at_the_centre",
        "The paper's crop layer cuts the middle out of the padded output.",
        "eval/logits",
        _PICTURE,
        f"[:, :, -height % 32 // 2 :, -width % 32 // 2 :]{_PICTURE}",
        (1, 1, 2),
    ),
    everywhere(
        "mask_cropped_at_bottom_right",
        "The mask is cut with a negative index, as if the padding stood first.",
        "eval/mask",
        Patch(
            "train",
            "(classes, images)[:, 0]",
            f"(classes, np.pad(images, {_WIDER}))[:, 0, -images.shape[2] :, -images.shape[3] :]",
        ),
    ),
    everywhere(
        "mask_upsampled_from_the_grid",
        "The class is chosen before upsampling, and the coarse mask is enlarged.",
        "eval/mask",
        Patch(
            "train",
            "    def predict(self, images: Array) -> NDArray[np.uint8]:\n",
            "    def predict(self, images: Array) -> NDArray[np.uint8]:\n"
            '        coarse = self.activations(images)["final_conv"].argmax(1).astype(np.uint8)\n'
            "        fine = coarse.repeat(32, 1).repeat(32, 2)\n"
            "        return fine[:, : images.shape[2], : images.shape[3]]\n",
        ),
    ),
    everywhere(
        "label_off_by_one",
        "reduce_zero_label, right for data sets whose 0 is void, makes void of class 0.",
        "loss[0]",
        _labels("np.where(labels == 255, labels, labels - 1)"),
    ),
    everywhere(
        "label_void_as_background",
        "255 is read as class 0, which is what the book's colour table does.",
        "loss[0]",
        _labels("np.where(labels == 255, 0, labels).astype(np.uint8)"),
    ),
    everywhere(
        "label_background_ignored",
        "Class 0 is left out of the loss as if it were void.",
        "loss[0]",
        _labels("np.where(labels == 0, 255, labels).astype(np.uint8)"),
    ),
    everywhere(
        "label_columns_flipped",
        "The random flip mirrors the label and not the image.",
        "loss[0]",
        _labels("labels[..., ::-1]"),
    ),
    everywhere(
        "label_one_pixel_off",
        "The label's crop starts one pixel later than the image's.",
        "loss[0]",
        _labels("np.roll(labels, -1, axis=2)"),
    ),
    everywhere(
        "label_of_another_image",
        "Images and labels come from two listings that are sorted differently.",
        "loss[0]",
        _labels("labels[::-1]"),
    ),
    everywhere(
        "label_padded_with_background",
        "The label is padded with 0, as the image is, and the padding is learnt.",
        "loss[0]",
        _labels("np.pad(labels, ((0, 0), (0, -labels.shape[1] % 32), (0, -labels.shape[2] % 32)))"),
    ),
]
