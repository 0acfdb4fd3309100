"""The wordings that the released weights were trained with: what is said to Qwen2.5-VL around a prompt and its pictures.

They are data, not prose: another word, another order or another line break gives other embeddings.
"""

from __future__ import annotations

# Wording of the released code. The report prints another order of the attributes; the weights were trained with this one.
T2I_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), "
    "then explain how the user's text instruction should alter or modify the image. Generate a new image that meets the "
    "user's requirements while maintaining consistency with the original input where appropriate.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)

IMAGE_TOKEN = "<|image_pad|>"
PICTURE = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"

TEMPLATES = {"t2i": T2I_TEMPLATE}
"""Templates for text alone; their embeddings depend on the language model and the tokenizer only."""

PICTURE_TEMPLATES = {"edit": (EDIT_TEMPLATE, PICTURE), "edit-plus": (EDIT_TEMPLATE, f"Picture {{}}: {PICTURE}")}
"""Templates for text and pictures: the frame, and how each picture (numbered from 1) is announced in front of the prompt."""

CAPTION_TEMPLATES = {
    "en": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n# Image Annotator\n"
        "You are a professional image annotator. Please write an image caption based on the input image:\n"
        "1. Write the caption using natural, descriptive language without structured formats or rich text.\n"
        "2. Enrich caption details by including:\n"
        " - Object attributes, such as quantity, color, shape, size, material, state, position, actions, and so on\n"
        " - Vision Relations between objects, such as spatial relations, functional relations, possessive relations, "
        "attachment relations, action relations, comparative relations, causal relations, and so on\n"
        " - Environmental details, such as weather, lighting, colors, textures, atmosphere, and so on\n"
        " - Identify the text clearly visible in the image, without translation or explanation, and highlight it in the "
        "caption with quotation marks\n"
        "3. Maintain authenticity and accuracy:\n"
        " - Avoid generalizations\n"
        " - Describe all visible information in the image, while do not add information not explicitly shown in the image\n"
        f"{PICTURE}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "zh": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n# 图像标注器\n"
        "你是一个专业的图像标注器。请基于输入图像，撰写图注:\n"
        "1. 使用自然、描述性的语言撰写图注，不要使用结构化形式或富文本形式。\n"
        "2. 通过加入以下内容，丰富图注细节：\n"
        " - 对象的属性：如数量、颜色、形状、大小、位置、材质、状态、动作等\n"
        " - 对象间的视觉关系：如空间关系、功能关系、动作关系、从属关系、比较关系、因果关系等\n"
        " - 环境细节：例如天气、光照、颜色、纹理、气氛等\n"
        " - 文字内容：识别图像中清晰可见的文字，不做翻译和解释，用引号在图注中强调\n"
        "3. 保持真实性与准确性：\n"
        " - 不要使用笼统的描述\n"
        " - 描述图像中所有可见的信息，但不要加入没有在图像中出现的内容\n"
        f"{PICTURE}<|im_end|>\n<|im_start|>assistant\n"
    ),
}
"""Requests for a caption of one picture, for the layered pipeline's empty prompt."""


def templated(template: str, prompt: str, pictures: int = 0) -> tuple[str, str]:
    """The fixed beginning of ``template``, and everything after it: the announced pictures, the prompt, the closing."""
    frame, announced = PICTURE_TEMPLATES[template] if template in PICTURE_TEMPLATES else (TEMPLATES[template], "")
    before, after = frame.split("{}")
    return before, "".join(announced.format(n + 1) for n in range(pictures)) + prompt + after
