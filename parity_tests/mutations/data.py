"""Mistakes in the port's own way of images and labels to the network."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at eval/stem
image_bgr: OpenCV and old Caffe recipes read blue first, Pillow red.
    device.images_to_device: -> images = images[:, ::-1]
image_rows_flipped: An axis is reversed in the image alone: a BMP's rows, a flip left on.
    device.images_to_device: -> images = images[:, :, ::-1]
image_columns_flipped: The random flip of the port mirrors the image and not the label.
    device.images_to_device: -> images = images[..., ::-1]
image_height_and_width_swapped: Pillow's size is (width, height), a shape (height, width).
    device.images_to_device: -> images = images.swapaxes(2, 3).reshape(images.shape)
image_reshaped_to_layout: Channels-last data are reshaped to (3, H, W), not transposed.
    device.images_to_device: -> images = images.transpose(0, 2, 3, 1).reshape(images.shape)
image_normalised_twice: Both the loader and the model normalise.
    device.images_to_device: -> images = (images - 0.45) / 0.225
image_scaled_by_255: One side works on 0..1, the other on 0..255.
    device.images_to_device: -> images = images * 255
image_standardised_by_itself: per_image_standardization takes each image's own mean.
    device.images_to_device: -> images = images - images.mean(axis=(2, 3), keepdims=True)
image_crop_one_pixel_off: The image's crop starts one pixel later than the label's.
    device.images_to_device: -> images = np.roll(images, -1, axis=3)
image_in_float32: The loader makes float32 of the images, also in a float64 run.
    device.images_to_device: -> images = images.astype(np.float32)
image_in_float16: The loader stores normalised images in half precision to save space.
    device.images_to_device: -> images = images.astype(np.float16)
padded_at_top_left: Padding to a multiple of 32 is put before the image, cropping starts at 0.
    device.images_to_device: pad_images(images) ->
        np.pad(images, ((0, 0), (0, 0), (-images.shape[2] % 32, 0), (-images.shape[3] % 32, 0)))
    train.Trainer: label_cells(labels, ...) ->
        label_cells(np.pad(
            labels,
            ((0, 0), (-labels.shape[1] % 32, 0), (-labels.shape[2] % 32, 0)),
            constant_values=255,
        ), ...)
padded_with_the_edge: The image is padded by repeating its last row and column, not with zeros.
    device.images_to_device: pad_images(images) ->
        np.pad(
            images,
            ((0, 0), (0, 0), (0, -images.shape[2] % 32), (0, -images.shape[3] % 32)),
            mode="edge",
        )

at eval/logits
logits_cropped_at_the_centre: The paper's crop layer cuts the middle out of the padded output.
    train.Trainer.logits: __x[:, :, :height, :width] ->
        __x[:, :, -height % 32 // 2 :, -width % 32 // 2 :][:, :, :height, :width]
    torch, mxnet: probe.Probe: __x[:, :, :height, :width] ->
        __x[:, :, -height % 32 // 2 :, -width % 32 // 2 :][:, :, :height, :width]
    jax: probe.Probe: __x[:, :height, :width] ->
        __x[:, -height % 32 // 2 :, -width % 32 // 2 :][:, :height, :width]

at eval/mask
mask_cropped_at_bottom_right: The mask is cut as if the padding stood first.
    torch, mxnet: train.Trainer.predict:
        __mask[:, 0, :height, :width] -> __mask[:, 0, -height:, -width:]
    jax: train.Trainer.predict: __mask[:, :height, :width] -> __mask[:, -height:, -width:]
mask_upsampled_from_the_grid: The class is chosen before upsampling, in a coarse mask.
    train.Trainer.predict: ->
        from .probe import Probe
        coarse = Probe(self).activations(images)["final_conv"].argmax(1).astype(np.uint8)
        fine = coarse.repeat(32, 1).repeat(32, 2)
        return fine[:, : images.shape[2], : images.shape[3]]

at loss[0]
label_off_by_one: reduce_zero_label, where 0 is not void, makes void of class 0.
    train.Trainer: label_cells(labels, ...) ->
        label_cells(np.where(labels == 255, labels, labels - 1), ...)
label_void_as_background: 255 is read as class 0, which is what the book's colour table does.
    train.Trainer: label_cells(labels, ...) ->
        label_cells(np.where(labels == 255, 0, labels).astype(np.uint8), ...)
label_background_ignored: Class 0 is left out of the loss as if it were void.
    train.Trainer: label_cells(labels, ...) ->
        label_cells(np.where(labels == 0, 255, labels).astype(np.uint8), ...)
label_columns_flipped: The random flip mirrors the label and not the image.
    train.Trainer: label_cells(labels, ...) -> label_cells(labels[..., ::-1], ...)
label_one_pixel_off: The label's crop starts one pixel later than the image's.
    train.Trainer: label_cells(labels, ...) -> label_cells(np.roll(labels, -1, axis=2), ...)
label_of_another_image: Images and labels come from two listings that are sorted differently.
    train.Trainer: label_cells(labels, ...) -> label_cells(labels[::-1], ...)
label_padded_with_background: The label is padded with 0, as the image is, and learnt.
    train.Trainer: label_cells(labels, ...) ->
        label_cells(
            np.pad(labels, ((0, 0), (0, -labels.shape[1] % 32), (0, -labels.shape[2] % 32))), ...
        )

at eval/stem
padded_once_too_often: 32 - h % 32 pads a side that is a multiple already by 32 more.
    device.images_to_device: pad_images(images) ->
        np.pad(images, (
            (0, 0), (0, 0), (0, 32 - images.shape[2] % 32), (0, 32 - images.shape[3] % 32)
        ))
    train.Trainer: label_cells(labels, ...) ->
        label_cells(np.pad(
            labels,
            ((0, 0), (0, 32 - labels.shape[1] % 32), (0, 32 - labels.shape[2] % 32)),
            constant_values=255,
        ), ...)
    setting: portrait
portrait_turned: A loader lays portraits on their side to fill a landscape batch.
    device.images_to_device: ->
        if images.shape[2] > images.shape[3]:
            images = images[..., ::-1].reshape(images.shape)
    setting: portrait

at eval/mask
mask_takes_the_last_of_equals: The class map is searched from its last class.
    torch: train.Trainer.predict: self._cells(images).max(...).indices ->
        (self.config.num_classes - 1 - self._cells(images).flip(-1).max(...).indices)
    mxnet: train.Trainer.predict: nd.argmax(cells, axis=-1) ->
        (self.config.num_classes - 1 - nd.argmax(cells.flip(5), axis=-1))
    jax: train._classes: jnp.argmax(cells, ...) ->
        (cells.shape[-1] - 1 - jnp.argmax(cells[..., ::-1], ...))
    setting: ties

at after/logits or after/mask
predicts_with_the_first_weights: A compiled prediction keeps the weights that it was made with.
    train.Trainer.predict: ->
        now = self.weights()
        self.first = getattr(self, "first", now)
        import_weights(self.model, self.first)
    train.Trainer.predict: return __told ->
        told = __told
        import_weights(self.model, now)
        return told
predicts_with_averaged_weights: A moving average of the weights is meant for evaluation elsewhere.
    train.Trainer.step: return __told ->
        told = __told
        now = self.weights()
        before = getattr(self, "average", now)
        self.average = {k: 0.9 * before[k] + 0.1 * a for k, a in now.items()}
        return told
    train.Trainer.predict: ->
        now = self.weights()
        import_weights(self.model, getattr(self, "average", now))
    train.Trainer.predict: return __told ->
        told = __told
        import_weights(self.model, now)
        return told
train_mode_left_on_after_training: The switch back to eval mode is forgotten once a step was taken.
    torch, jax: train.Trainer.predict: self.model.eval() ->
        getattr(self, "trained", False) or self.model.eval()
    mxnet: train.Trainer.predict: cells = self.cells(__images) ->
        with autograd.train_mode() if getattr(self, "trained", False) else autograd.predict_mode():
            cells = self.cells(__images)
    train.Trainer.step: -> self.trained = True
""")
