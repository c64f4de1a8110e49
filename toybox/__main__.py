"""Tell the order in which the parts are made, and what each costs."""

STAGES = """\
toybox is made in this order (times on two CPU cores; each step but the first and last two resumes where it was):

  python -m toybox.vocabulary                                    half a minute
  torchrun --nproc-per-node 2 -m toybox.vae                      {vae}
  torchrun --nproc-per-node 2 -m toybox.latents                  {latents}
  torchrun --nproc-per-node 2 -m toybox.diffusion                {diffusion}
  torchrun --nproc-per-node 2 -m toybox.classifier               {classifier}
  torchrun --nproc-per-node 2 -m toybox.captioner                {captioner}
  torchrun --nproc-per-node 2 -m toybox.judge                    {judge}
  python -m toybox.concepts                                      seconds
  python -m toybox.package                                       seconds: into sentinv/toybox
  python -m toybox.measure                                       8 minutes: the table of the model card

Set OMP_NUM_THREADS=1. On a GPU, `python -m toybox.<part>` alone. Checkpoints and logs go to runs/toybox.
"""

COSTS = {
    "vae": "12 minutes",
    "latents": "6 minutes",
    "diffusion": "3 hours",
    "classifier": "15 minutes",
    "captioner": "15 minutes",
    "judge": "15 minutes",
}

if __name__ == "__main__":
    print(STAGES.format(**COSTS))
