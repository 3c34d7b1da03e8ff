#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where in its window a language model loses: how many tokens there are of each kind, and their mean loss in nats.

    ssm perplexity MODEL --tokens held_out.npy --window 512 --logprobs each.jsonl
    tools/recall_losses.py each.jsonl 512

Kinds by recall: `pair_again`, the pair of this token and the one before stands earlier in the window, so that looking it up
answers; `token_again`, the token alone does; `new`, neither. And by place in the window, from 0: `place_0_31` and so on."""
import json
import sys

PLACES = ((32, "place_0_31"), (128, "place_32_127"))


def place_of(place):
    return next((name for end, name in PLACES if place < end), "place_128_on")


def recall_losses(path, window):
    """{kind: {tokens, loss}} of what `ssm perplexity --logprobs` wrote."""
    totals = {}
    before, tokens, pairs = None, set(), set()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            place, token = (entry["position"] - 1) % window, entry["token"]
            if place == 0:  # a fresh state, which has read the token before this one alone
                tokens, pairs = set(), set()
            recall = "pair_again" if (before, token) in pairs else "token_again" if token in tokens else "new"
            for kind in (recall, place_of(place)):
                total = totals.setdefault(kind, [0, 0.0])
                total[0] += 1
                total[1] -= entry["logprob"]
            tokens.add(token)
            pairs.add((before, token))
            before = token
    return {kind: {"tokens": count, "loss": round(loss / count, 4)} for kind, (count, loss) in sorted(totals.items())}


if __name__ == "__main__":
    print(json.dumps(recall_losses(sys.argv[1], int(sys.argv[2]))))
