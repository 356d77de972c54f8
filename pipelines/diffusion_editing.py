"""What an unconditional diffusion model can do with images: paint parts of them anew, and walk between them."""

from __future__ import annotations

import math

import torch
from diffusers import ImagePipelineOutput, RePaintScheduler
from diffusers.utils.torch_utils import randn_tensor

from hfgen.pipelines.pipeline_hfgen_class_conditional import denoise, finish, set_timesteps
from hfgen.pipelines.pipeline_hfgen_vae import images_to_tensor


class DiffusionEditing:
    """Methods of a pipeline with a `unet`, a DDPM-like `scheduler` and square images."""

    @torch.no_grad()
    def inpaint(
        self,
        images,
        mask,
        num_inference_steps: int = 250,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Paint anew where `mask` is 1 (white), in keeping with the rest, which stays as it is (RePaint).

        Args:
            images: as `VAEPipeline.preprocess` takes them.
            mask: as `images` of grey, one for all or one for each; 0.5 and above is painted.
            num_inference_steps: 1..T denoising steps; jumps come on top.
            jump_length, jump_n_sample: after every `jump_length` steps go back as many, `jump_n_sample` - 1 times, so that
                what is painted and what is kept come to agree. Network evaluations: about steps * jump_n_sample.

        Raises `ValueError` for images or masks of another size and numbers out of range.

        Source: Lugmayr et al. 2022, algorithm 1 and appendix B.
        """
        config = self.unet.config
        x_0 = images_to_tensor(images, config.in_channels, config.sample_size)
        paint = (images_to_tensor(mask, 1, config.sample_size) >= 0).float()
        if len(paint) not in (1, len(x_0)):
            raise ValueError(f"{len(paint)} masks for {len(x_0)} images: pass one for all, or one for each")
        T = self.scheduler.config.num_train_timesteps
        for name, value, most in (
            ("num_inference_steps", num_inference_steps, T),
            ("jump_length", jump_length, num_inference_steps),
            ("jump_n_sample", jump_n_sample, math.inf),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name}={value}: use 1..{most}")
        device, dtype = self._execution_device, self.unet.dtype
        x_0, keep = x_0.to(device, dtype), (1 - paint).to(device, dtype)
        scheduler = self._repaint_scheduler()
        scheduler.set_timesteps(num_inference_steps, jump_length, jump_n_sample)
        if scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0:
            raise ValueError(
                f"num_inference_steps={num_inference_steps}: with zero terminal SNR x_T says nothing about x_0, use 1..{T - 1}"
            )
        x = randn_tensor(x_0.shape, generator, device, dtype)
        before = scheduler.timesteps[0] + 1
        for t in self.progress_bar(scheduler.timesteps):
            if t < before:
                noise = self._epsilon(self.unet(x, t.to(device)).sample, x, t)
                x = scheduler.step(noise, t, x, x_0, keep, generator).prev_sample
            else:
                x = scheduler.undo_step(x, before, generator)
            before = t
        return finish(self, x, output_type, return_dict)

    @torch.no_grad()
    def interpolate(
        self,
        a,
        b,
        steps: int = 8,
        strength: float = 0.5,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """`steps` images from `a` to `b`: both are noised to x_t with the same noise, mixed linearly and denoised.

        Args:
            a, b: as many images each; of several the walks come one after another, len(a) * steps images.
            strength: t / T, above 0 to 1. Little keeps to the two images, as in a cross-fade; much gives images that have less
                to do with them. All of a walk share the noise of its x_t.
            num_inference_steps: of the whole chain, of which the part below t is run; by default min(1000, T).
            generator: of the noise of x_t and of the steps.

        Raises `ValueError` for images of another size, another number of them in `b` than in `a`, and numbers out of range.

        Source: Ho et al. 2020, section 4.4 and figure 8.
        """
        if steps < 2 or not 0 < strength <= 1:
            raise ValueError(f"steps={steps}, strength={strength}: at least 2 steps, strength above 0 to 1")
        size, channels = self.unet.config.sample_size, self.unet.config.in_channels
        start, end = (images_to_tensor(images, channels, size) for images in (a, b))
        if len(start) != len(end):
            raise ValueError(f"{len(start)} images in a and {len(end)} in b: pass as many in each")
        if num_inference_steps is None:
            num_inference_steps = min(1000, self.scheduler.config.num_train_timesteps)
        self.check_inputs(1, None, num_inference_steps, eta, output_type)
        timesteps = set_timesteps(self, num_inference_steps)
        begin = num_inference_steps - max(1, round(strength * num_inference_steps))
        begin *= getattr(self.scheduler, "order", 1)  # Heun's has each timestep but the first one twice
        timesteps = timesteps[begin:]
        device, dtype = self._execution_device, self.unet.dtype
        start, end = start.to(device, dtype), end.to(device, dtype)
        noise = randn_tensor(start.shape, generator, device, dtype)
        first = timesteps[:1].expand(len(start))
        start, end = (self.scheduler.add_noise(x, noise, first) for x in (start, end))
        share = torch.linspace(0, 1, steps, device=device, dtype=dtype)[None, :, None, None, None]
        x_t = torch.lerp(start[:, None], end[:, None], share).flatten(0, 1)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        image = denoise(self, lambda x, t: self.unet(x, t).sample, x_t, timesteps, generator, eta, None)
        return finish(self, image, output_type, return_dict)

    def _repaint_scheduler(self) -> RePaintScheduler:
        """RePaint with fresh noise at each step (eta = 1), on this model's betas."""
        config = self.scheduler.config
        return RePaintScheduler(
            config.num_train_timesteps,
            trained_betas=self.scheduler.betas.float().cpu().numpy(),
            eta=1.0,
            clip_sample=config.get("clip_sample", True),
        )

    def _epsilon(self, output, x_t, timestep):
        """The noise by the network's prediction of epsilon, x_0 or v."""
        output = output[:, : x_t.shape[1]]
        alpha_bar = self.scheduler.alphas_cumprod[timestep].to(x_t)
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
        if kind == "sample":
            return (x_t - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
        raise ValueError(f"prediction_type={kind!r}: inpainting needs a model of epsilon, sample or v_prediction")
