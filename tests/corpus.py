"""Texts on which tokenizers go wrong: ten languages, digits, emoji, decomposed accents, code and white space."""

from __future__ import annotations

import unicodedata

LANGUAGES = {
    "English": "It's the harbor's oldest lighthouse; we'd been there before they'd rebuilt the café's naïve façade.",
    "French": "L'été dernier, où étiez-vous ? « À Besançon », répondit-elle, « près de l'œuvre inachevée » — déjà !",
    "Spanish": "¿Dónde está el pingüino? ¡Mañana lloverá en Logroño, según el señor Núñez!",
    "Italian": "Perché l'università è così lontana? Un po' di caffè, e poi c'è più tempo di quanto n'avessi.",
    "German": "Fünf große Bären überquerten die Straße; Dübel, Größe und Weißwurstfrühstück kosten 12,50 €.",
    "Portuguese": "Não há pão na padaria do João, mas amanhã haverá maçãs, limões e opções à vontade.",
    "Japanese": "東京タワーは高さ333メートルです。カタカナとひらがな、ガギグゲゴ、パピプペポ。「どうぞ」",
    "Korean": "안녕하세요, 한국어 문장입니다. 서울의 날씨가 어떻습니까? 뷁쀍 ㅋㅋㅋ",
    "Chinese": "今天天气很好，我们去公园散步吧。龘靐齉𠮷𪚥，价格是１２３元。",
    "Arabic": "مرحبًا بالعالم! كَيْفَ حالُكَ؟ السنة ١٤٤٥ هـ، و٪٥٠ من الناس يقرأون.",
}

OTHERS = {
    "empty": "",
    "digits": "0 1 12 123 1234567890 3.14159 1e-10 0x1F 2²⁄₃ Ⅷ ① ٣٤٥ १२३ １２ 1,000,000.00 v2.0.1",
    "emoji": "👍🏽 👨‍👩‍👧‍👦 🇨🇦🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️‍🔥 ☀️ ⌚ 7️⃣ 🌍🌎🌏 ™ ℹ️",
    "decomposed": "e\u0301te\u0301 A\u030a o\u0323\u0302 n\u0303 \u304b\u3099 q\u0307\u0323",
    "decomposed Korean": "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165",
    "composition": "\u212b \u2126 \ufb01 \u1e9b\u0323 >\u0338 =\u0338 \u0958 \u2adc",
    "code": (
        'def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # \u2713\n\n\n'
        "for (i=0;i<10;i++) { a[i] += b[i] % 2 == 0 ? 1 : -1; }\r\n"
    ),
    "white space": " a  b   c\t\td\n\n\n   e \u00a0f\u3000g\u200bh \u2028i\r\n\r\n \t \n  ",
    "only spaces": "     ",
    "contractions": "I'm you're he'll WE'VE don't 'tis 's 'S ''s can't've",
    "markup": '<p class="a">x &amp; y</p> <co: 0>span</co: 0> | a | b |\n|---|---| <|x|> <PADDING>',
    "control characters": "\x00\x01\x02\x07\x1b[31m\x7f\x80\x9f\ufeff\ufffd\uffff",
    "long word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "mixed": "Hello世界مرحبا🌍12ab３４\u0301é\u0301",
    "zalgo": "Z\u0351\u036b\u0343\u036a\u0302A\u0334\u0335\u031eL\u0331G\u0321O\u0489",
}


def texts() -> dict[str, str]:
    """Every text by its name, and each one that differs in another Unicode form once more in that form."""
    result = LANGUAGES | OTHERS
    for form in ("NFC", "NFD", "NFKD"):
        for name, text in (LANGUAGES | OTHERS).items():
            other = unicodedata.normalize(form, text)
            if other != text:
                result[f"{name}, {form}"] = other
    return result
