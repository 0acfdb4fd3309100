"""Sentence patterns and slot words of our own. {word} takes a word of the split, {n} a number, other names a slot below."""

from __future__ import annotations

EN_SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "place": (
        "the library",
        "the old harbour",
        "the market",
        "the station",
        "the garden",
        "the museum",
        "the school",
        "the bakery",
    ),
    "thing": ("coffee", "fresh bread", "green tea", "books", "flowers", "music", "bicycles", "paper", "lamps", "maps"),
    "person": ("Anna", "Tom", "Maria", "Leo", "Grace", "Omar", "Nina", "Paul"),
    "adj": ("quiet", "bright", "warm", "late", "small", "long", "gentle", "busy", "simple"),
    "time": ("in the morning", "at noon", "after dinner", "before sunrise", "this week", "every evening", "next month"),
}

EN_PHRASES: tuple[str, ...] = (
    "{word} sale",
    "open {day}",
    "the {word}",
    "new {word}",
    "{adj} {word}",
    "no {word}",
    "{n} days left",
    "{thing} today",
    "happy {day}",
    "your {word}",
    "{word} & {word}",
    "welcome {word}",
    "room {n}",
)

EN_PATTERNS: tuple[str, ...] = (
    "{person} waits at {place} {time}.",
    "We sell {thing} and {thing} near {place}.",
    "The word of the day is {word}.",
    "Please bring {thing} to {place} on {day}.",
    "There is no {word} without some {word}.",
    "{person} wrote {word} on the wall of {place}.",
    "A {adj} street leads from {place} to the river.",
    "The train to {word} leaves at {n} past nine.",
    "Ask {person} about the {word} {time}.",
    "It was a {adj} day, and the {word} was {adj} too.",
    "Only {n} seats are left for {day}.",
    "Nobody at {place} had seen the {word} {time}.",
    "{thing} costs {n} dollars {time}.",
    "She put the {word} beside the {word} and closed the door.",
    "Turn left at {place}, then look for the {adj} sign.",
    "What does {word} mean? {person} knows.",
    "On {day} {place} is open until midnight.",
    "Keep the {word} dry and the {word} warm.",
)

ZH_SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期天"),
    "place": ("图书馆", "车站", "公园", "学校", "市场", "海边", "书店", "茶馆", "小镇"),
    "thing": ("咖啡", "面包", "绿茶", "鲜花", "音乐", "地图", "水果", "新书"),
    "person": ("小明", "小红", "老李", "王老师", "小林", "阿姨", "爷爷"),
    "adj": ("安静", "明亮", "温暖", "漂亮", "热闹", "干净", "新鲜"),
    "time": ("早上", "中午", "晚饭后", "日出之前", "这个星期", "每天傍晚", "下个月"),
}

ZH_PHRASES: tuple[str, ...] = (
    "新{word}",
    "{word}中心",
    "欢迎{word}",
    "{day}见",
    "{word}与{word}",
    "请勿{word}",
    "今日{thing}",
    "{place}入口",
    "{adj}的{word}",
    "还有{n}天",
    "我爱{word}",
)

ZH_PATTERNS: tuple[str, ...] = (
    "{person}{time}在{place}等我们。",
    "{place}旁边有一家卖{thing}的小店。",
    "今天的词语是{word}。",
    "请在{day}把{thing}带到{place}。",
    "没有{word}，就没有{word}。",
    "{person}在墙上写了{word}。",
    "从{place}出发，走过一条{adj}的小路。",
    "下一站是{word}，请准备下车。",
    "关于{word}的事，可以去问{person}。",
    "{day}的票只剩下{n}张了。",
    "{time}，{place}里没有人说起{word}。",
    "{thing}只卖{n}元，欢迎品尝。",
    "她把{word}放在{word}旁边，轻轻关上了门。",
    "什么是{word}？{person}最清楚。",
    "{place}的{thing}又{adj}又便宜。",
    "保持{adj}，注意{word}。",
)
