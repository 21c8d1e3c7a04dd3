"""Mistakes in the port's own way of images and labels to the network."""

from parity_tests.faults.apply import Fault, Patch, everywhere, fault

_STEM = "eval/stem"


def _images(expression: str) -> tuple[Patch, Patch]:
    """The images replaced where `train.py` takes them in, for evaluation and for training."""
    return (
        Patch("train", "pad_images(images))", f"pad_images({expression}))"),
        Patch("train", "pad_batch(images, labels)", f"pad_batch({expression}, labels)"),
    )


def _labels(expression: str) -> Patch:
    return Patch("train", "pad_batch(images, labels)", f"pad_batch(images, {expression})")


_SHORT = "-images.shape[2] % 32, -images.shape[3] % 32"
_WIDER = "((0, 0), (0, 0), (0, -images.shape[2] % 32), (0, -images.shape[3] % 32))"

FAULTS: list[Fault] = [
    everywhere(
        "image_bgr",
        "OpenCV and old Caffe recipes read blue first, Pillow red.",
        _STEM,
        *_images("images[:, ::-1]"),
    ),
    everywhere(
        "image_rows_flipped",
        "An axis is reversed in the image alone: a BMP's rows, an augmentation left on.",
        _STEM,
        *_images("images[:, :, ::-1]"),
    ),
    everywhere(
        "image_columns_flipped",
        "The random flip of the port mirrors the image and not the label.",
        _STEM,
        *_images("images[..., ::-1]"),
    ),
    everywhere(
        "image_height_and_width_swapped",
        "Pillow's size is (width, height), an array's shape (height, width).",
        _STEM,
        *_images("images.swapaxes(2, 3).reshape(images.shape)"),
    ),
    everywhere(
        "image_reshaped_to_layout",
        "Channels-last data are reshaped to (3, H, W) where they should be transposed.",
        _STEM,
        *_images("images.transpose(0, 2, 3, 1).reshape(images.shape)"),
    ),
    everywhere(
        "image_normalised_twice",
        "Both the loader and the model subtract the mean and divide by the deviation.",
        _STEM,
        *_images("(images - 0.45) / 0.225"),
    ),
    everywhere(
        "image_scaled_by_255",
        "One side works on 0..1, the other on 0..255.",
        _STEM,
        *_images("images * 255"),
    ),
    everywhere(
        "image_standardised_by_itself",
        "per_image_standardization takes the mean of each image, not of the data set.",
        _STEM,
        *_images("images - images.mean(axis=(2, 3), keepdims=True)"),
    ),
    everywhere(
        "image_crop_one_pixel_off",
        "The image's crop starts one pixel later than the label's.",
        _STEM,
        *_images("np.roll(images, -1, axis=3)"),
    ),
    everywhere(
        "image_in_float32",
        "The loader makes float32 of the images, also in a float64 run.",
        _STEM,
        *_images("images.astype(np.float32)"),
    ),
    everywhere(
        "image_in_float16",
        "The loader stores normalised images in half precision to save space.",
        _STEM,
        *_images("images.astype(np.float16)"),
    ),
    everywhere(
        "padded_at_top_left",
        "Padding to a multiple of 32 is put before the image, cropping starts at 0.",
        _STEM,
        Patch("train", "pad_images(images))", f"np.roll(pad_images(images), ({_SHORT}), (2, 3)))"),
        Patch(
            "train",
            "images, labels = pad_batch(images, labels)",
            f"shift = ({_SHORT})\n"
            "        images, labels = pad_batch(images, labels)\n"
            "        images = np.roll(images, shift, (2, 3))\n"
            "        labels = np.roll(labels, shift, (1, 2))",
        ),
    ),
    everywhere(
        "padded_with_the_edge",
        "The image is padded by repeating its last row and column, not with zeros.",
        _STEM,
        *_images(f"np.pad(images, {_WIDER}, mode='edge')"),
    ),
    everywhere(
        "logits_cropped_at_the_centre",
        "The paper's crop layer cuts the middle out of the padded output.",
        "eval/logits",
        Patch(
            "train",
            "crop_activations(arrays, images.shape)",
            'crop_activations({**arrays, "logits": arrays["logits"]['
            ":, :, (-images.shape[2] % 32) // 2 :, (-images.shape[3] % 32) // 2 :]}, images.shape)",
        ),
    ),
    everywhere(
        "mask_cropped_at_bottom_right",
        "The mask is cut with a negative index, as if the padding stood first.",
        "eval/mask",
        Patch("train", "classes[:, :height, :width]", "classes[:, -height:, -width:]"),
    ),
    fault(
        "mask_upsampled_from_the_grid",
        "The class is chosen before upsampling, and the coarse mask is enlarged.",
        "eval/mask",
        torch=Patch(
            "train",
            "self._evaluate(images).max(dim=1).indices",
            "self._evaluate(images)[:, :, 16::32, 16::32].max(dim=1).indices"
            ".repeat_interleave(32, 1).repeat_interleave(32, 2)",
        ),
        mxnet=Patch(
            "train",
            "nd.argmax(logits, axis=-1)",
            "nd.argmax(logits[:, 16::32, 16::32], axis=-1).repeat(32, axis=1).repeat(32, axis=2)",
        ),
        jax=Patch(
            "train",
            "jnp.argmax(logits, axis=-1)",
            "jnp.argmax(logits[:, 16::32, 16::32], axis=-1).repeat(32, 1).repeat(32, 2)",
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
