"""Mistakes in the port's own way of images and labels to the network."""

from parity_tests.mutations.apply import Patch, mutation, start, swap

_IMAGES = {
    "image_bgr": (
        "OpenCV and old Caffe recipes read blue first, Pillow red.",
        "images[:, ::-1]",
    ),
    "image_rows_flipped": (
        "An axis is reversed in the image alone: a BMP's rows, an augmentation left on.",
        "images[:, :, ::-1]",
    ),
    "image_columns_flipped": (
        "The random flip of the port mirrors the image and not the label.",
        "images[..., ::-1]",
    ),
    "image_height_and_width_swapped": (
        "Pillow's size is (width, height), an array's shape (height, width).",
        "images.swapaxes(2, 3).reshape(images.shape)",
    ),
    "image_reshaped_to_layout": (
        "Channels-last data are reshaped to (3, H, W) where they should be transposed.",
        "images.transpose(0, 2, 3, 1).reshape(images.shape)",
    ),
    "image_normalised_twice": (
        "Both the loader and the model subtract the mean and divide by the deviation.",
        "(images - 0.45) / 0.225",
    ),
    "image_scaled_by_255": (
        "One side works on 0..1, the other on 0..255.",
        "images * 255",
    ),
    "image_standardised_by_itself": (
        "per_image_standardization takes the mean of each image, not of the data set.",
        "images - images.mean(axis=(2, 3), keepdims=True)",
    ),
    "image_crop_one_pixel_off": (
        "The image's crop starts one pixel later than the label's.",
        "np.roll(images, -1, axis=3)",
    ),
    "image_in_float32": (
        "The loader makes float32 of the images, also in a float64 run.",
        "images.astype(np.float32)",
    ),
    "image_in_float16": (
        "The loader stores normalised images in half precision to save space.",
        "images.astype(np.float16)",
    ),
}
"""What the images are replaced by on their way to the device."""

_LABELS = {
    "label_off_by_one": (
        "reduce_zero_label, right for data sets whose 0 is void, makes void of class 0.",
        "np.where(labels == 255, labels, labels - 1)",
    ),
    "label_void_as_background": (
        "255 is read as class 0, which is what the book's colour table does.",
        "np.where(labels == 255, 0, labels).astype(np.uint8)",
    ),
    "label_background_ignored": (
        "Class 0 is left out of the loss as if it were void.",
        "np.where(labels == 0, 255, labels).astype(np.uint8)",
    ),
    "label_columns_flipped": (
        "The random flip mirrors the label and not the image.",
        "labels[..., ::-1]",
    ),
    "label_one_pixel_off": (
        "The label's crop starts one pixel later than the image's.",
        "np.roll(labels, -1, axis=2)",
    ),
    "label_of_another_image": (
        "Images and labels come from two listings that are sorted differently.",
        "labels[::-1]",
    ),
    "label_padded_with_background": (
        "The label is padded with 0, as the image is, and the padding is learnt.",
        "np.pad(labels, ((0, 0), (0, -labels.shape[1] % 32), (0, -labels.shape[2] % 32)))",
    ),
}
"""What the labels are replaced by where the training step takes them in."""

_ROWS, _COLUMNS = "-images.shape[2] % 32", "-images.shape[3] % 32"


def _padded(rows: str, columns: str, mode: str = "constant") -> str:
    return f"np.pad(images, ((0, 0), (0, 0), ({rows}), ({columns})), mode='{mode}')"


def _labels(expression: str) -> Patch:
    return swap("train.Trainer", "label_cells(labels)", f"label_cells({expression})")


def _crop(old: str, new: str) -> Patch:
    return swap("train.Trainer.predict", old, new)


MUTATIONS = [
    *(
        mutation(name, why, "eval/stem", start("device.images_to_device", f"images = {images}"))
        for name, (why, images) in _IMAGES.items()
    ),
    mutation(
        "padded_at_top_left",
        "Padding to a multiple of 32 is put before the image, cropping starts at 0.",
        "eval/stem",
        [
            swap(
                "device.images_to_device",
                "pad_images(images)",
                _padded(f"{_ROWS}, 0", f"{_COLUMNS}, 0"),
            ),
            _labels(
                "np.pad(labels, ((0, 0), (-labels.shape[1] % 32, 0), (-labels.shape[2] % 32, 0)),"
                " constant_values=255)"
            ),
        ],
    ),
    mutation(
        "padded_with_the_edge",
        "The image is padded by repeating its last row and column, not with zeros.",
        "eval/stem",
        swap(
            "device.images_to_device",
            "pad_images(images)",
            _padded(f"0, {_ROWS}", f"0, {_COLUMNS}", "edge"),
        ),
    ),
    mutation(
        "logits_cropped_at_the_centre",
        "The paper's crop layer cuts the middle out of the padded output.",
        "eval/logits",
        [
            swap(
                seam,
                "__logits[:, :, :height, :width]",
                "__logits[:, :, -height % 32 // 2 :, -width % 32 // 2 :][:, :, :height, :width]",
            )
            for seam in ("train.Trainer.logits", "probe.Probe")
        ],
    ),
    mutation(
        "mask_cropped_at_bottom_right",
        "The mask is cut with a negative index, as if the padding stood first.",
        "eval/mask",
        torch=_crop("__mask[:, 0, :height, :width]", "__mask[:, 0, -height:, -width:]"),
        mxnet=_crop("__mask[:, 0, :height, :width]", "__mask[:, 0, -height:, -width:]"),
        jax=_crop("__mask[:, :height, :width]", "__mask[:, -height:, -width:]"),
    ),
    mutation(
        "mask_upsampled_from_the_grid",
        "The class is chosen before upsampling, and the coarse mask is enlarged.",
        "eval/mask",
        start(
            "train.Trainer.predict",
            """
            from .probe import Probe
            coarse = Probe(self).activations(images)["final_conv"].argmax(1).astype(np.uint8)
            fine = coarse.repeat(32, 1).repeat(32, 2)
            return fine[:, : images.shape[2], : images.shape[3]]
            """,
        ),
    ),
    *(mutation(name, why, "loss[0]", _labels(labels)) for name, (why, labels) in _LABELS.items()),
]
