"""Orders to a model in other languages than English, by their set phrases: to drop the instructions that came before.

A bank in another language meets these words in no lesson either, so they are looked for whatever its language is.
"""

from __future__ import annotations

import re

FOREIGN = re.compile(
    r"(?:ignor(?:a|ar|e|en|ad|emos) (?:tod\w+ )?(?:las|los|tus|sus|mis|cualquier)|olvid[ae]\w*|haz caso omiso"
    r"|descarta\w*)\b[^.!?]{0,40}\b(?:instruc\w+|indicaci\w+|[oó]rdenes|reglas|mensajes|lo anterior)"
    r"|(?:ignorier\w*|vergiss|vergesst|missachte\w*)\b[^.!?]{0,40}\b(?:anweisung\w*|befehl\w*|regeln|vorgaben"
    r"|instruktion\w*|nachrichten)"
    r"|(?:ignor(?:ez?|er|ons) (?:tou\w+ )?(?:les|tes|vos|ces|mes)|oubli\w+|ne (?:tiens|tenez) pas compte|ne"
    r" (?:suis|suivez) pas|n[ée]glige\w*)\b[^.!?]{0,40}\b(?:consignes?"
    r"|instructions?|directives|r[èe]gles|messages|qui pr[ée]c[èe]de)"
    r"|(?:ignora(?:te|re)? (?:tutt\w )?(?:le|gli|i|tue|qualsiasi)|dimentica\w*|trascura\w*|non"
    r" seguire)\b[^.!?]{0,40}\b(?:istruzioni|ordini|regole|indicazioni)"
    r"|(?:ignor(?:e|a|ar|em) (?:tod\w+ )?(?:as|os|suas|tuas|quaisquer)|esque[cç]\w+"
    r"|desconsider\w+)\b[^.!?]{0,40}\b(?:instru[cç]\w+|ordens|regras)"
    r"|(?:negeer|vergeet)\b[^.!?]{0,40}\b(?:instructies|opdrachten|regels|aanwijzingen)"
    r"|(?:zignoruj|ignoruj|zapomnij)\b[^.!?]{0,40}\b(?:instrukcj\w+|polece\w+|zasad\w*)"
    r"|(?:önceki|yukarıdaki)[^.!?]{0,30}(?:talimat|komut)[^.!?]{0,20}(?:yok say|unut|dikkate alma)"
    r"|(?:忽略|无视|無視|忘记|忘記|不要理会|不要遵守)[^。！？]{0,15}(?:指令|指示|提示|规则|規則|命令|说明)"
    r"|(?:指示|命令|プロンプト|ルール)[^。！？]{0,12}(?:無視|忘れ)"
    r"|(?:지시|명령|프롬프트|규칙)[^.!?]{0,12}(?:무시|잊)"
    r"|(?:تجاهل|انس)[^.!?]{0,30}(?:التعليمات|الأوامر|القواعد)"
    r"|(?:अनदेखा|नज़रअंदाज|भूल)[^.!?।]{0,20}(?:निर्देश)|(?:निर्देश)[^.!?।]{0,20}(?:अनदेखा|नज़रअंदाज|भूल)"
)
STEMS = (
    *("ignor", "olvid", "omiso", "descart", "verge", "vergi", "missacht", "oubli", "compte", "suiv", "suis", "neglig"),
    *("dimentic", "trascur", "seguire", "esquec", "desconsid", "negeer", "zapomn"),
)
"""Without one of these no foreign phrase is in an ASCII text: looked for first, as most texts have none."""
CYRILLIC = re.compile(
    r"(?:игнорир\w*|забудь\w*|не обращай\w* внимания|отмени\w*|пренебрег\w*|ігноруй\w*)[^.!?]{0,40}"
    r"(?:инструкци\w*|указани\w*|правил\w*|команд\w*|інструкці\w*)",
    re.IGNORECASE,
)
