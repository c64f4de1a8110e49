"""How learned words are weighed: likeness to the picture and to the prompt as the weight varies, for three ways.

    python benchmarks/weights.py outputs/weights.md --concepts 4 --count 2

"unseen", which is what `--weight` does, goes away from the states of the prompt in which no token attends to the word, or
towards them. "empty" scales the states of the word's own tokens away from those of the empty prompt. "compel" is "empty" above
1; below, it mixes the states of the prompt with the unseen ones, in shares of 1 : tan((1 - weight) * pi / 2).
The words are learned by the defaults: one picture, from a caption, 100 steps.
"""

import argparse
import math
from pathlib import Path

import torch

import sentinv
from sentinv.bench.concepts import read_concepts
from sentinv.concepts.tokens import tokenize
from sentinv.evaluation.judges import ClipJudge
from sentinv.files.images import read_image, to_pil
from sentinv.generation import denoiser as module
from sentinv.generation.generate import GenerateConfig, generate_latents, seeded
from sentinv.initializers import make
from sentinv.models.backbone import Condition
from sentinv.models.loading import load

HERE = Path(__file__).parent
PROMPTS = ("a photo of {} on the moon", "a photo of {} in the snow", "a pencil sketch of {}", "a watercolor of {}")
WEIGHTS = {
    "unseen": (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
    "empty": (0.5, 0.75, 1.25, 1.5),
    "compel": (0.5, 0.75),
}
honest = module.weighed


def compel(backbone, condition, ids, words):
    ((tokens, weight),) = words
    other = math.tan((1 - weight) * math.pi / 2)
    without = backbone.encode_ids(ids, unseen=tokens)
    return Condition((condition.hidden + other * without.hidden) / (1 + other), condition.pooled)


def empty(backbone, condition, ids, words):
    ((tokens, weight),) = words
    none = backbone.encode_ids(tokenize(backbone, [""])).hidden
    own = torch.isin(ids[backbone.text_encoders[0].name], torch.tensor(tokens))[..., None]
    scaled = none + weight * (condition.hidden - none)
    return Condition(torch.where(own, scaled, condition.hidden), condition.pooled)


WAYS = {"unseen": honest, "empty": empty, "compel": compel}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--concepts", type=int, default=4)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone, judge = load("toybox"), ClipJudge.load(base_model="toybox")
    found = {}
    for source in read_concepts(HERE / "concepts" / "concepts.json")[: options.concepts]:
        concept = sentinv.invert(backbone, source.image, make("caption", "toybox"), token="<c>")
        picture = judge.images([read_image(source.image).image])
        for way, weights in WEIGHTS.items():
            module.weighed = WAYS[way]
            for weight in weights:
                for prompt in PROMPTS:
                    config = GenerateConfig(steps=options.steps, weights={"<c>": weight}, batch_size=options.count)
                    latents = generate_latents(
                        backbone, prompt.format("<c>"), concept, generators=seeded(0, options.count), config=config
                    )
                    images = judge.images([to_pil(backbone.decode(one[None]))[0] for one in latents])
                    words = judge.texts([" ".join(prompt.format("").split())])
                    scores = ((images @ picture.T).mean().item(), (images @ words.T).mean().item())
                    found.setdefault((way, weight), []).append(scores)
        print(source.name, flush=True)
        write(options, found)


def write(options, found):
    lines = [
        "# Weights of learned words",
        "",
        f"`python benchmarks/weights.py outputs/weights.md --concepts {options.concepts} --count {options.count}`",
        "",
        f"{len(next(iter(found.values()))) // len(PROMPTS)} words, {len(PROMPTS)} prompts, {options.count} images each.",
        "CLIP-I: cosine to the picture; CLIP-T: cosine to the prompt without the word.",
        "",
        "| way | weight | CLIP-I | CLIP-T |",
        "|---|--:|--:|--:|",
    ]
    for (way, weight), scores in found.items():
        image, text = (sum(values) / len(values) for values in zip(*scores, strict=True))
        lines.append(f"| {way} | {weight:g} | {image:.3f} | {text:.3f} |")
    options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
