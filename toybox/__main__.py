"""Tell the order in which the parts are made, and what each costs."""

STAGES = """\
toybox is made in this order (times on two CPU cores with bfloat16; each training resumes where it was):

  python -m toybox.art                                           {art}
  python -m toybox.vocabulary                                    half a minute
  torchrun --nproc-per-node 2 -m toybox.vae                      {vae}
  torchrun --nproc-per-node 2 -m toybox.latents                  {latents}
  torchrun --nproc-per-node 2 -m toybox.diffusion                {diffusion}
  torchrun --nproc-per-node 2 -m toybox.lessons                  {lessons}
  python -m toybox.classifier                                    {classifier}, on one core
  python -m toybox.judge                                         {judge}, on the other at the same time
  python -m toybox.captioner                                     {captioner}, on one core
  python -m toybox.tower                                         {tower}, on the other at the same time
  python -m toybox.concepts                                      seconds
  python -m toybox.package                                       seconds: into sentinv/toybox
  python -m toybox.gallery                                       a minute: things.safetensors, by the packaged judge
  python -m toybox.measure                                       15 minutes: the table of the model card
  python -m toybox.words                                         15 minutes: what words of 100 steps are, of each concept

Set OMP_NUM_THREADS=1. On a GPU, `python -m toybox.<part>` alone. Drawings, checkpoints and logs go to runs/toybox: 25 MB
of packages, 350 MB of sprites, 1.3 GB of latents, 13 GB of lessons, 300 MB of checkpoints.
"""

COSTS = {
    "art": "1 minute",
    "vae": "20 minutes",
    "latents": "13 minutes",
    "diffusion": "4 hours",
    "lessons": "9 minutes",
    "classifier": "1 hour 40 minutes",
    "captioner": "17 minutes",
    "judge": "1 hour 35 minutes",
    "tower": "10 minutes",
}

if __name__ == "__main__":
    print(STAGES.format(**COSTS))
