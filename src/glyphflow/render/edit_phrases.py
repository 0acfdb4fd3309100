"""Instructions with slots, in two languages and several phrasings each; ``{q}`` and ``{q2}`` are quoted texts."""

from __future__ import annotations

Patterns = tuple[tuple[float, str], ...]

INSTRUCTIONS: dict[str, tuple[Patterns, Patterns]] = {
    "text": (
        (
            (4, "Change {q} to {q2}."),
            (3, "Replace the text {q} with {q2}."),
            (2, "Change the text from {q} to {q2}."),
            (2, "Make it say {q2} instead of {q}."),
            (1, "Rewrite {q} as {q2}, everything else stays as it is."),
            (1, "The text should read {q2}, not {q}."),
        ),
        (
            (4, "把{q}改成{q2}。"),
            (3, "将文字{q}替换为{q2}。"),
            (2, "把文字从{q}改为{q2}。"),
            (2, "让它写{q2}，而不是{q}。"),
            (1, "把{q}换成{q2}，其他不变。"),
        ),
    ),
    "text_colour": (
        (
            (4, "Make the text {q} {new}."),
            (3, "Change the colour of {q} to {new}."),
            (2, "Change the text {q} from {old} to {new}."),
            (2, "Write {q} in {new} instead of {old}."),
            (1, "Recolor {q} {new}, keep the rest."),
        ),
        (
            (4, "把文字{q}变成{new}。"),
            (3, "将{q}的颜色改为{new}。"),
            (2, "把{old}文字{q}改成{new}。"),
            (2, "用{new}写{q}，不要用{old}。"),
            (1, "给{q}换成{new}，其余保持不变。"),
        ),
    ),
    "font": (
        (
            (4, "Set {q} in a {new} typeface."),
            (3, "Change the font of {q} to {new}."),
            (2, "Write {q} in {new} letters."),
            (1, "Use a {new} font instead of the {old} one for {q}."),
        ),
        (
            (4, "把{q}的字体改为{new}。"),
            (3, "用{new}写{q}。"),
            (2, "将文字{q}换成{new}。"),
            (1, "{q}不要用{old}，改用{new}。"),
        ),
    ),
    "add": (
        (
            (4, "Add {a_thing} {place}."),
            (2, "Put {a_thing} {place}."),
            (2, "Draw {a_thing} {place}."),
            (1, "There should also be {a_thing} {place}."),
            (1, "Insert {a_thing} {place}, change nothing else."),
        ),
        (
            (4, "在{place}添加一个{thing}。"),
            (2, "在{place}放一个{thing}。"),
            (2, "在{place}画一个{thing}。"),
            (1, "{place}再加上一个{thing}，其他不变。"),
        ),
    ),
    "remove": (
        (
            (4, "Remove the {thing}."),
            (2, "Delete the {thing}."),
            (2, "Take the {thing} away."),
            (1, "Erase the {thing} {place}."),
            (1, "Get rid of the {thing}, leave the rest as it is."),
        ),
        (
            (4, "去掉{thing}。"),
            (2, "删除{thing}。"),
            (2, "把{thing}拿走。"),
            (1, "擦掉{place}的{thing}。"),
            (1, "移除{thing}，其余保持不变。"),
        ),
    ),
    "replace": (
        (
            (4, "Replace the {thing} with {a_new}."),
            (2, "Turn the {thing} into {a_new}."),
            (2, "Change the {thing} to {a_new}."),
            (1, "Instead of the {thing}, show {a_new}."),
            (1, "Swap the {thing} {place} for {a_new}."),
        ),
        (
            (4, "把{thing}换成{new}。"),
            (2, "将{thing}替换为{new}。"),
            (2, "把{thing}变成{new}。"),
            (1, "把{place}的{thing}改成{new}。"),
        ),
    ),
    "recolour": (
        (
            (4, "Make the {thing} {new}."),
            (3, "Change the colour of the {thing} to {new}."),
            (2, "Paint the {thing} {new}."),
            (2, "Turn the {old} {thing} {new}."),
            (1, "Recolor the {thing} {place} {new}."),
        ),
        (
            (4, "把{thing}变成{new}。"),
            (3, "将{thing}的颜色改为{new}。"),
            (2, "把{thing}涂成{new}。"),
            (2, "把{old}{thing}改成{new}。"),
            (1, "给{place}的{thing}换成{new}。"),
        ),
    ),
    "background": (
        (
            (4, "Change the background to {new}."),
            (3, "Make the background {new}."),
            (2, "Replace the {old} background with {a_new} one."),
            (1, "Put everything on {a_new} background."),
            (1, "Use {new} as the background colour, keep the rest."),
        ),
        (
            (4, "把背景改成{new}。"),
            (3, "将背景变为{new}。"),
            (2, "把{old}背景换成{new}背景。"),
            (1, "背景用{new}，其他不变。"),
        ),
    ),
}
