"""`hfgen sample`: images from a trained pipeline, as a grid, single files, or an animation from noise to image."""

from __future__ import annotations

import os
from pathlib import Path

from hfgen.commands.values import fraction, non_negative, whole_number
from hfgen.errors import HfgenError
from hfgen.schedulers.names import SAMPLER_NAMES

COMPILE = "torch.compile the UNet of a diffusion model: half a minute first (seconds the next time), then faster"
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser("sample", help="images from a trained pipeline", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help="branch, tag or commit of the repository")
    add("--num_images", type=whole_number(1), default=64, help="(default: %(default)s)")
    add("--scheduler", choices=SAMPLER_NAMES, help="sampler of a diffusion model (default: sde-dpmsolver++)")
    add(
        "--steps",
        type=whole_number(1),
        help="denoising steps (default: 20; all for ddpm, 50 for ddim, euler and heun)",
    )
    add("--eta", type=fraction, help="noise of ddim, from 0 to 1 as in ddpm (default: 0)")
    add(
        "--class_labels",
        nargs="+",
        help="classes of a class-conditional model, by number or name, in turn (default: all)",
    )
    add(
        "--guidance_scale",
        type=non_negative,
        help="w in out_u + w (out_c - out_u) of a class-conditional model; 1: no guidance (default), above: more typical",
    )
    add("--sample_pixels", action="store_true", help="of a VAE: draw from p(x|z) instead of showing its mean")
    add("--seed", type=whole_number(0), default=0, help="image i depends on the seed and i (default: %(default)s)")
    add("--out", type=Path, default="grid.png", help="PNG of the grid, or a new folder of PNGs (default: %(default)s)")
    add("--trajectory", type=Path, metavar="GIF", help="also write an animation from noise to image")
    add("--batch_size", type=whole_number(1), default=64, help="images at once (default: %(default)s)")
    add("--compile", action="store_true", help=COMPILE)
    add("--device", help="such as cuda:1 or cpu (default: cuda, mps or cpu, the first there is)")
    parser.set_defaults(run=run)


def run(args):
    """Check the outputs, load, sample, write, and tell what was written.

    Raises `HfgenError` before sampling for what cannot be loaded, sampled or written.
    """
    single_files = check_outputs(args.out, args.trajectory)
    from diffusers.utils import logging

    from hfgen.images import image_grid, save_folder, save_gif, save_png, to_pil
    from hfgen.loading import load_pipeline
    from hfgen.pipelines import VAEPipeline
    from hfgen.sampling import pick_device, trajectory_grids

    logging.disable_progress_bar()
    device = pick_device(args.device)
    pipeline = load_pipeline(args.pipeline, revision=args.revision, device=device)
    sample = _from_vae if isinstance(pipeline, VAEPipeline) else _from_diffusion
    samples, how = sample(pipeline, args)
    if single_files:
        save_folder(to_pil(samples.images), args.out)
    else:
        save_png(image_grid(samples.images), args.out)
    print(f"{args.out}: {args.num_images} images of {'x'.join(map(str, samples.images.shape[1:]))}")
    if args.trajectory is not None:
        save_gif(trajectory_grids(samples.trajectory), args.trajectory)
        print(f"{args.trajectory}: {len(samples.trajectory)} frames of {samples.trajectory.shape[1]} images")
    rate = args.num_images / samples.seconds
    print(f"{samples.seconds:.1f} s, {rate:.3g} images/s ({how}, {device})")


def _from_diffusion(pipeline, args):
    from hfgen.compiled import compile_unet
    from hfgen.sampling import generate
    from hfgen.schedulers.samplers import default_sampler, default_steps, make_sampler

    if args.sample_pixels:
        raise HfgenError("--sample_pixels is for VAEs, and this is a diffusion model: leave it out")
    name = args.scheduler or default_sampler(pipeline.scheduler)
    pipeline.scheduler = make_sampler(name, pipeline.scheduler)
    if args.compile:
        compile_unet(pipeline.unet)
    steps = args.steps or default_steps(name, pipeline.scheduler.config.num_train_timesteps)
    with_trajectory = args.trajectory is not None
    guidance = 1.0 if args.guidance_scale is None else args.guidance_scale
    samples = generate(
        pipeline,
        args.num_images,
        steps,
        args.seed,
        args.batch_size,
        args.eta or 0.0,
        trajectory=with_trajectory,
        class_labels=args.class_labels,
        guidance_scale=guidance,
    )
    return samples, f"{name}, {steps} steps" + (f", guidance {guidance:g}" if guidance != 1 else "")


def _from_vae(pipeline, args):
    from hfgen.sampling import generate_vae

    given = [
        f"--{name}"
        for name in ("scheduler", "steps", "eta", "trajectory", "class_labels", "guidance_scale")
        if getattr(args, name) is not None
    ]
    given += ["--compile"] * args.compile
    if given:
        raise HfgenError(f"{', '.join(given)}: this is a VAE, which draws an image in one step: leave it out")
    samples = generate_vae(pipeline, args.num_images, args.seed, args.batch_size, args.sample_pixels)
    return samples, "draws from p(x|z)" if args.sample_pixels else "means of p(x|z)"


def check_outputs(out: Path, trajectory: Path | None) -> bool:
    """Make the folders of the outputs; True if `out` is a folder for single files.

    Raises `HfgenError` for a picture format other than PNG and GIF, for a folder that is not empty, and for a place
    that cannot be written to.
    """
    suffix = out.suffix.lower()
    if suffix in OTHER_PICTURES:
        raise HfgenError(f"--out {out}: grids are PNG files, name one that ends in .png, or a folder")
    if trajectory is not None:
        if trajectory.suffix.lower() != ".gif":
            raise HfgenError(f"--trajectory {trajectory}: animations are GIF files, name one that ends in .gif")
        _make_folder("--trajectory", trajectory, trajectory.parent)
    _make_folder("--out", out, out.parent if suffix == ".png" else out)
    if suffix != ".png" and any(out.iterdir()):
        raise HfgenError(f"--out {out} is a folder with files in it: name a new one, or a file that ends in .png")
    return suffix != ".png"


def _make_folder(flag, path, folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(f"{flag} {path}: {folder} is no folder ({error.strerror}): name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HfgenError(f"{flag} {path}: no permission to write to {folder}: name another")
    if path != folder and path.is_dir():
        raise HfgenError(f"{flag} {path} is a folder: name a file")
