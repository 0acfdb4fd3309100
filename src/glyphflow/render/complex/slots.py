"""Texts for the slots of a design, by kind.

Sentences and words come from :mod:`glyphflow.render.texts`; what a real form or slide says beside them (labels, names, prices,
dates) is made here, in both languages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import date, timedelta

from glyphflow.render.layout import CJK, has_cjk
from glyphflow.render.params import Language, Split
from glyphflow.render.texts import is_heldout, sample_text

_ATTEMPTS = 24
Pairs = tuple[tuple[str, str], ...]

_BUTTONS: Pairs = (
    ("Sign in", "登录"), ("Send", "发送"), ("Save", "保存"), ("Continue", "继续"), ("Buy now", "立即购买"), ("Cancel", "取消"),
    ("Learn more", "了解更多"), ("Get started", "马上开始"), ("Book a table", "预订座位"), ("Add to cart", "加入购物车"),
    ("Download", "下载"), ("Confirm", "确认"), ("Join us", "加入我们"), ("Try it free", "免费试用"), ("Search", "搜索"),
    ("Submit", "提交"), ("Next", "下一步"), ("Reserve", "预约"), ("Share", "分享"), ("View all", "查看全部"),
)  # fmt: skip
_MENU: Pairs = (
    ("Home", "首页"), ("Products", "产品"), ("Prices", "价格"), ("About", "关于"), ("Contact", "联系"), ("News", "新闻"),
    ("Messages", "消息"), ("Settings", "设置"), ("Orders", "订单"), ("Reports", "报表"), ("Team", "团队"), ("Files", "文件"),
    ("Calendar", "日历"), ("Profile", "我的"), ("Help", "帮助"), ("Gallery", "相册"), ("Music", "音乐"), ("Travel", "旅行"),
    ("Recipes", "菜谱"), ("Events", "活动"), ("Shop", "商店"), ("Library", "书架"), ("Weather", "天气"), ("Sports", "运动"),
)  # fmt: skip
_LABELS: Pairs = (
    ("Revenue", "收入"), ("Visitors", "访客"), ("Orders", "订单"), ("Members", "会员"), ("Downloads", "下载量"),
    ("Rainfall", "降雨量"), ("Temperature", "温度"), ("Distance", "距离"), ("Speed", "速度"), ("Weight", "重量"),
    ("Energy", "能量"), ("Steps", "步数"), ("Sleep", "睡眠"), ("Budget", "预算"), ("Growth", "增长"), ("Sales", "销售额"),
    ("Costs", "成本"), ("Profit", "利润"), ("Readers", "读者"), ("Rating", "评分"), ("Battery", "电量"), ("Storage", "存储"),
    ("Tickets", "门票"), ("Returns", "退货"), ("Students", "学生"), ("Cities", "城市"), ("Projects", "项目"), ("Tasks", "任务"),
)  # fmt: skip
_FIELDS: Pairs = (
    ("Company", "公司"), ("School", "学校"), ("Motto", "座右铭"), ("Message", "留言"), ("Order", "订单内容"), ("Title", "标题"),
    ("Department", "部门"), ("Job title", "职位"), ("Room", "房间"), ("Subject", "主题"),
    ("Comment", "备注"),    ("Favourite food", "喜欢的食物"), ("Teacher", "老师"), ("Class", "班级"),
    ("Hobby", "爱好"), ("Reason", "原因"),
)  # fmt: skip
_PLACES: Pairs = (
    ("London", "北京"), ("Paris", "上海"), ("Lisbon", "杭州"), ("Oslo", "成都"), ("Vienna", "广州"), ("Madrid", "西安"),
    ("Dublin", "南京"), ("Athens", "苏州"), ("Prague", "青岛"), ("Helsinki", "大连"), ("Toronto", "厦门"), ("Lima", "昆明"),
    ("Main Street", "中山路"), ("River Hall", "人民广场"), ("Central Park", "东湖公园"), ("North Station", "火车南站"),
)  # fmt: skip
_TAGS: Pairs = (
    ("New", "新品"), ("Sale", "特价"), ("Popular", "热门"), ("Open", "营业中"), ("Limited", "限量"), ("Free", "免费"),
    ("Today", "今日"), ("Top", "推荐"), ("Live", "直播"), ("Guide", "指南"), ("Design", "设计"), ("Food", "美食"),
    ("Nature", "自然"), ("Science", "科学"), ("Story", "故事"), ("Garden", "花园"), ("Weekend", "周末"), ("Family", "家庭"),
)  # fmt: skip
_FIRST = (
    "Anna", "Tom", "Maria", "Leo", "Grace", "Omar", "Nina", "Paul", "Emma", "Lucas", "Sofia", "Hugo", "Clara", "Felix", "Alice",
    "Oscar", "Julia", "Simon", "Laura", "David", "Helen", "Peter", "Irene", "Victor",
)  # fmt: skip
_LAST = (
    "Brown", "Fischer", "Garcia", "Novak", "Rossi", "Dubois", "Jensen", "Silva", "Murphy", "Kowalski", "Larsen", "Weber",
    "Costa",    "Lopez", "Martin", "Baker", "Young", "Turner", "Walker", "Hughes",
)  # fmt: skip
_SURNAMES, _GIVEN = (
    "王李张刘陈杨黄赵周吴徐孙朱马胡林郭何高罗",
    [
        "小明",
        "丽华",
        "建国",
        "晓雨",
        "志强",
        "雪梅",
        "文静",
        "子涵",
        "海洋",
        "思远",
        "佳怡",
        "春天",
        "明月",
        "国庆",
        "小红",
        "安然",
    ],
)
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKDAYS_ZH = ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日")


def units(text: str) -> int:
    """The length of ``text`` as designs count it: a Latin letter is one, a Chinese character two."""
    return sum(2 if CJK.match(char) else 1 for char in text)


def slot_text(kind: str, rng: random.Random, language: Language, split: Split, limit: int | None, used: set[str]) -> str:
    """A text of ``kind`` (see :data:`KINDS`) of at most ``limit`` :func:`units`, not among ``used`` where that can be had.

    Under the split "train" (and "demo") it holds no held-out word or number. "mixed" takes either language.
    """
    make = KINDS[kind]
    shortest: str | None = None
    for _ in range(_ATTEMPTS):
        own: Language = rng.choice(("en", "zh")) if language == "mixed" else language
        text = make(rng, own == "zh", split)
        if split != "heldout" and is_reserved(text):
            continue
        if (limit is None or units(text) <= limit) and text not in used:
            return text
        if shortest is None or units(text) < units(shortest):
            shortest = text
    return shortest if shortest is not None else make(rng, language == "zh", split)


def is_reserved(text: str) -> bool:
    """Whether a word or number of ``text`` is kept for evaluation."""
    return any(map(is_heldout, re.findall(r"[A-Za-z']+|[\d$][\d:,.%]*\d%?|\d", text))) or (has_cjk(text) and is_heldout(text))


def reserved_words(text: str) -> list[str]:
    """The words of a fixed text of a design that are kept for evaluation; designs that ship with the package have none."""
    return [word for word in re.findall(r"[A-Za-z']+", text) if is_heldout(word)]


Maker = Callable[[random.Random, bool, Split], str]


def _from(pairs: Pairs) -> Maker:
    return lambda rng, zh, split: rng.choice(pairs)[zh]


def _title(rng: random.Random, zh: bool, split: Split) -> str:
    text = sample_text(rng, "zh" if zh else "en", "phrase", split)
    return text if zh else " ".join(word[:1].upper() + word[1:] for word in text.lower().split())


def _heading(rng: random.Random, zh: bool, split: Split) -> str:
    text = sample_text(rng, "zh" if zh else "en", "phrase", split)
    return text if zh else text[:1].upper() + text[1:].lower()


def _sentence(rng: random.Random, zh: bool, split: Split) -> str:
    return sample_text(rng, "zh" if zh else "en", "line", split)


def _bullet(rng: random.Random, zh: bool, split: Split) -> str:
    """A sentence without its full stop, as points on slides are written."""
    return _sentence(rng, zh, split).rstrip(".。")


def _paragraph(rng: random.Random, zh: bool, split: Split) -> str:
    return ("" if zh else " ").join(_sentence(rng, zh, split) for _ in range(rng.randint(2, 3)))


def _word(rng: random.Random, zh: bool, split: Split) -> str:
    while True:
        text = sample_text(rng, "zh" if zh else "en", "word", split)
        if text.isalpha():
            return text if zh else text.title()


def _number(rng: random.Random, zh: bool, split: Split) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return str(rng.randint(2, 999))
    if kind == 1:
        return f"{rng.randint(1000, 99999):,}"
    if kind == 2:
        return f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"
    return f"{rng.randint(2, 950)}万" if zh else f"{rng.randint(2, 950)}K"


def _price(rng: random.Random, zh: bool, split: Split) -> str:
    whole = rng.choice((rng.randint(1, 99), rng.randint(100, 999), rng.randint(1, 49) * 100 - 1))
    cents = rng.choice(("", "", ".50", ".90", ".99"))
    return f"¥{whole}{cents}" if zh else f"{rng.choice('$$$€£')}{whole}{cents}"


def _day(rng: random.Random) -> date:
    return date(2019, 1, 1) + timedelta(days=rng.randrange(4000))


def _date(rng: random.Random, zh: bool, split: Split) -> str:
    day = _day(rng)
    month = _MONTHS[day.month - 1]
    if zh:
        return rng.choice((f"{day.year}年{day.month}月{day.day}日", f"{day.month}月{day.day}日", f"{day:%Y-%m-%d}"))
    return rng.choice(
        (f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{month[:3]} {day.day}", f"{day:%Y-%m-%d}")
    )


def _weekday(rng: random.Random, zh: bool, split: Split) -> str:
    return (_WEEKDAYS_ZH if zh else _WEEKDAYS)[rng.randrange(7)]


def _time(rng: random.Random, zh: bool, split: Split) -> str:
    hour, minute = rng.randint(7, 21), rng.choice((0, 10, 15, 20, 30, 40, 45, 50))
    if zh or rng.random() < 0.5:
        return f"{hour:02d}:{minute:02d}"
    return f"{(hour - 1) % 12 + 1}:{minute:02d} {'am' if hour < 12 else 'pm'}"


def _name(rng: random.Random, zh: bool, split: Split) -> str:
    return rng.choice(_SURNAMES) + rng.choice(_GIVEN) if zh else f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _plain(rng: random.Random, split: Split) -> str:
    """A lower-case English word for addresses of all kinds, which are Latin in both languages."""
    while True:
        word = sample_text(rng, "en", "word", split).lower()
        if re.fullmatch("[a-z]{3,}", word):
            return word


def _email(rng: random.Random, zh: bool, split: Split) -> str:
    return f"{rng.choice(_FIRST).lower()}@{_plain(rng, split)}.org"


def _url(rng: random.Random, zh: bool, split: Split) -> str:
    return f"www.{_plain(rng, split)}.org"


def _phone(rng: random.Random, zh: bool, split: Split) -> str:
    return f"555-{rng.randint(1000, 9999)}" if not zh else f"010-{rng.randint(10000000, 99999999)}"


KINDS: dict[str, Maker] = {
    "title": _title,
    "subtitle": lambda rng, zh, split: _heading(rng, zh, split) if rng.random() < 0.5 else _bullet(rng, zh, split),
    "heading": _heading,
    "bullet": _bullet,
    "sentence": _sentence,
    "paragraph": _paragraph,
    "word": _word,
    "number": _number,
    "percent": lambda rng, zh, split: f"{rng.randint(1, 99)}%",
    "price": _price,
    "date": _date,
    "weekday": _weekday,
    "time": _time,
    "year": lambda rng, zh, split: f"{rng.randint(1950, 2049)}" + ("年" if zh and rng.random() < 0.5 else ""),
    "name": _name,
    "place": _from(_PLACES),
    "email": _email,
    "url": _url,
    "phone": _phone,
    "button": _from(_BUTTONS),
    "menu": _from(_MENU),
    "label": _from(_LABELS),
    "field": _from(_FIELDS),
    "tag": _from(_TAGS),
}
"""What ``data-slot`` may say beside :data:`OWN`."""
OWN = ("icon", "ordinal", "total", "clock")
"""Slots whose content follows from others: an emoji, the number of a repeated element, the sum of all prices before it, a time
of day later than the one before."""
