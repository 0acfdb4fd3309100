"""Sentence patterns and slot words of our own. {word} takes a word of the split, {n} a number, other names a slot below."""

from __future__ import annotations

EN_SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "place": (
        "the library",
        "the harbour",
        "the market",
        "the station",
        "the garden",
        "the museum",
        "the school",
        "the bakery",
    ),
    "thing": ("coffee", "fresh bread", "green tea", "cold milk", "apple juice", "warm soup", "lemon tea", "honey"),
    "person": ("Anna", "Tom", "Maria", "Leo", "Grace", "Omar", "Nina", "Paul"),
    "adj": ("quiet", "bright", "warm", "late", "small", "long", "gentle", "busy", "simple"),
    "time": ("in the morning", "at noon", "after dinner", "before sunrise", "this week", "every evening", "next month"),
}

EN_PHRASES: tuple[str, ...] = (
    "{word} sale",
    "open {day}",
    "the {word}",
    "new {word}",
    "{adj} {thing}",
    "{n} days left",
    "{thing} today",
    "happy {day}",
    "{word} & {word}",
    "welcome {word}",
    "room {n}",
)

# A word of any part of speech may fill {word}: so the sentences speak of it as a word, a name or a sign.
EN_PATTERNS: tuple[str, ...] = (
    "{person} waits at {place} {time}.",
    "We sell {thing} and {thing} near {place}.",
    "The word of the day is {word}.",
    "Please bring {thing} to {place} on {day}.",
    "The sign says {word}, but the door says {word}.",
    "{person} wrote {word} on the wall of {place}.",
    "A {adj} street leads from {place} to the river.",
    "The train to {place} leaves at {n} minutes past nine.",
    "Ask {person} how to spell {word}.",
    "It was a {adj} day, and {place} was {adj} too.",
    "Only {n} seats are left for {day}.",
    "Nobody at {place} could guess the password {word}.",
    "We drank {thing} {time}, and {person} told us about {place}.",
    "She read {word} aloud and closed the {adj} book.",
    "Turn left at {place}, then look for the {adj} sign.",
    "What does {word} mean? {person} knows.",
    "On {day} {place} is open until midnight.",
    "The boat is called {word}, the dog {word}.",
    "First you read {word}, then {word}, then {word}.",
)

ZH_SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期天"),
    "place": ("图书馆", "车站", "公园", "学校", "市场", "海边", "书店", "茶馆", "小镇"),
    "thing": ("咖啡", "面包", "绿茶", "鲜花", "水果", "蛋糕", "果汁", "牛奶"),
    "person": ("小明", "小红", "老李", "王老师", "小林", "阿姨", "爷爷"),
    "adj": ("安静", "漂亮", "干净", "特别"),
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
    "门上写着{word}，墙上写着{word}。",
    "{person}在墙上写了{word}。",
    "从{place}出发，走过一条{adj}的小路。",
    "{word}怎么读？请问{person}。",
    "{day}的票只剩下{n}张了。",
    "{time}，{place}里有人大声读出{word}。",
    "{thing}只卖{n}元，欢迎品尝。",
    "她在纸上写下{word}，轻轻关上了门。",
    "什么是{word}？{person}最清楚。",
    "{place}的{thing}又{adj}又便宜。",
    "小船叫{word}，小狗叫{word}。",
    "先写{word}，再写{word}，最后写{word}。",
)

# Around characters that must occur, whatever they mean.
EN_INCLUDE: tuple[str, ...] = (
    "The characters on the card are {chars}.",
    "How do you read {chars}?",
    "Today we practise {chars}.",
    "The seal shows {chars}.",
)

ZH_INCLUDE: tuple[str, ...] = (
    "今天练习{chars}。",
    "纸上写着{chars}。",
    "{chars}怎么读？",
    "请抄写{chars}三遍。",
    "这一页有{chars}。",
)
