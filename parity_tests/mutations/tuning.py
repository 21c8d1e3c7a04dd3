"""Mistakes in fine-tuning: what is frozen, and the head's own rate."""

from parity_tests.mutations.apply import parse

MUTATIONS = parse("""
at train/stem
frozen_norm_takes_the_batch_s_statistics: gamma and beta are frozen, the layer stays in train mode.
    torch: model.FCN.train: self.freeze != Freeze.none -> False
    mxnet: layers.batch_norm: config.freeze != Freeze.none -> False
    jax: layers._BatchNorm.forward: self.use_running_average or self.frozen ->
        self.use_running_average
    setting: frozen_norms
frozen_backbone_s_norms_learn_on: Without gradients, its BatchNorms still take the batch's.
    torch: model.FCN.train: self.freeze != Freeze.none -> False
    mxnet: layers.batch_norm: config.freeze != Freeze.none -> False
    jax: layers._BatchNorm.forward: self.use_running_average or self.frozen ->
        self.use_running_average
    setting: frozen_backbone

at grad/backbone.layer4.1.bn2.bias
frozen_norm_s_gamma_and_beta_are_trained: Only the statistics are frozen.
    train.Trainer.__init__: frozen_tensors(config) -> ()
    setting: frozen_norms

at loss[1]
frozen_weights_decay: The optimizer still has them, and pulls them to 0.
    train.Trainer.step: return __told ->
        kept = {k for k in self.weights() if k.startswith("backbone.") and k.endswith("weight")}
        import_weights(
            self.model, {k: w * (1 - 1e-4) if k in kept else w for k, w in self.weights().items()}
        )
        return __told
    setting: frozen_backbone

at update/final_conv.weight
head_rate_ignored: One rate for all.
    train.Trainer.step: -> head_rate = rate
    setting: head_rate
head_rate_rounded_twice: The multiple is taken of the rounded rate.
    train.Trainer.step: -> head_rate = float(np.float32(rate * self.config.head_rate))
    setting: head_rate

at update/transpose_conv.weight
head_rate_for_the_new_layer_alone: The upsampling learns at the backbone's rate.
    torch: optimizer.build_optimizer: in_head(k) -> k.startswith("final")
    mxnet: optimizer._SGD.update: in_head(index) -> index.startswith("final")
    jax: train._update: in_head(name) -> name.startswith("final")
    setting: head_rate

at update/backbone.conv1.weight
head_rate_for_the_backbone: The two groups of an optimizer change places.
    train.Trainer.step: -> rate, head_rate = head_rate, rate
    setting: head_rate
""")
