"""Text for a tiny base: reading, copying, choosing and noting down, with the vocabulary of the eight tasks but other
instructions and other answer formats. A base that has seen only this cannot answer the eight tasks, yet has the
abilities that an adapter needs to steer. Each maker takes a random.Random and returns (input, target)."""

import clinical_words as w
import eight_tasks as tasks

# Words that answers of the eight tasks are made of: here they are only copied and looked up, out of their places.
FORMAT_WORDS = (["主体词", "发生状态", "描述词", "解剖部位", "否定", "不确定", "头实体为", "尾实体为", "具有", "关系的头尾实体对如下",
                 "上述句子中的临床发现事件如下", "上述对话中临床发现实体以及其阴阳性判别如下", "上述问诊对话的诊疗报告如下",
                 "主诉", "现病史", "辅助检查", "既往史", "诊断", "建议", "暂无", "体健", "出现", "口服", "曾患", "可以口服",
                 "建议先查一个", "看看", "就诊即可", "平时", "好好休息", "您好", "厉害吗", "不客气", "祝早日康复"]
                + list(w.RELATIONS) + list(w.INTENTS) + list(w.CRITERIA) + w.POLARITIES)
PLAIN_RELATIONS = {"药物治疗": "药", "临床表现": "症状", "辅助检查": "化验", "就诊科室": "科室", "并发症": "后患", "病因": "起因"}
PLAIN_POLARITIES = {w.PRESENT: "有", w.ABSENT: "没有", w.UNKNOWN: "不清楚", w.IRRELEVANT: "是别人"}
WORDS = (w.NAMES + w.SYMPTOMS + w.DRUGS + w.TESTS + w.DEPARTMENTS + w.COMPLICATIONS + w.CAUSES + w.ADVICE + w.PARTS
         + w.DEGREES + w.TIMES + w.DURATIONS)


def any_word(rng):
    return rng.choice(FORMAT_WORDS if rng.random() < 0.5 else WORDS)


def any_sentence(rng):
    maker = rng.choice([tasks.cmeie, tasks.cdee, tasks.ctc, tasks.qic])
    return maker(rng, rng.randrange(1000))[0]


def copy(rng):
    if rng.random() < 0.3:
        text = any_sentence(rng)
    else:
        marks = rng.choice(["，", "；", "：", "。", "；：", "：，。", "；：\n", "\n：", "：\n。"])
        parts = [any_word(rng) + rng.choice(marks) for _ in range(rng.randint(2, 7))]
        text = "".join(parts).strip()
    return rng.choice(["照抄：\n{}", "重复一遍：\n{}", "{}\n请原样再写一次。"]).format(text), text


def pick(rng):
    words = [any_word(rng) for _ in range(rng.randint(3, 6))]
    place = rng.randrange(3)
    name = ["第一个", "第二个", "最后一个"][place]
    return f"词语：{'、'.join(words)}\n写出{name}词。", words[[0, 1, -1][place]]


def lookup(rng):
    keys = rng.sample(FORMAT_WORDS + w.NAMES, rng.randint(2, 5))
    values = [any_word(rng) for _ in keys]
    lines = "\n".join(f"{k}：{v}" for k, v in zip(keys, values))
    at = rng.randrange(len(keys))
    if rng.random() < 0.5:
        return f"{lines}\n查一查：{keys[at]}后面写着什么？", values[at]
    order = rng.sample(range(len(keys)), 2)
    wanted = "、".join(keys[i] for i in order)
    return f"{lines}\n把这几行挑出来：{wanted}", "\n".join(f"{keys[i]}：{values[i]}" for i in order)


def finding_sentence(rng):
    """A sentence of findings and what it says: (sentence, [(finding, part, degree, sign)])."""
    core, _, target, _ = tasks.cdee(rng, rng.randrange(1000))
    findings = []
    for line in target.split("\n")[1:]:
        head, state, degree, part = [field.split("：")[1] for field in line.split("；")]
        findings.append((head, part, degree, {"": "真", "否定": "假", "不确定": "疑"}[state]))
    return core, findings


def list_findings(rng):
    core, findings = finding_sentence(rng)
    return f"{core}\n句中提到了哪些难受？", "、".join(f[0] for f in findings)


def ask_finding(rng):
    core, findings = finding_sentence(rng)
    head, part, degree, _ = findings[0]
    kind = rng.randrange(4)
    if kind == 0:
        return f"{core}\n问：{head}在哪里？", part or "没说"
    if kind == 1:
        return f"{core}\n问：{head}的程度怎样？", degree or "没说"
    if kind == 2:
        return f"{core}\n问：哪个被否认了？", "、".join(f[0] for f in findings if f[3] == "假") or "都没否认"
    return f"{core}\n问：拿不准的是什么？", "、".join(f[0] for f in findings if f[3] == "疑") or "没有拿不准"


def finding_table(rng):
    core, findings = finding_sentence(rng)
    keys = [("词", 0), ("地方", 1), ("程度", 2), ("真假", 3)]
    keys = rng.sample(keys, rng.randint(2, 4))
    rows = ["/".join(f"{k}={f[i] or '空'}" for k, i in keys) for f in findings]
    return f"{core}\n把难受列成表，列：{'/'.join(k for k, _ in keys)}", "\n".join(rows)


def choose(rng):
    names = rng.sample(w.NAMES, rng.randint(3, 5))
    options = [rng.choice(w.QUALIFIERS) + n for n in names]
    if rng.random() < 0.3:
        some = sorted(rng.sample(range(len(names)), 2))
        clue = rng.choice(w.FREE_PAIRS).format(*[names[i] for i in rng.sample(some, 2)])
        return f"清单：{'、'.join(options)}\n“{clue}”说到清单里哪两种？", "和".join(options[i] for i in some)
    at = rng.randrange(len(names))
    clue = rng.choice(w.FREE_WORDINGS).format(names[at])
    return f"清单：{'、'.join(options)}\n“{clue}”说到清单里哪一种？", options[at]


def relation_sentence(rng):
    relation = rng.choice(list(w.RELATIONS))
    templates, field = w.RELATIONS[relation]
    head = rng.choice(w.NAMES)
    values = w.DISEASES[head][field]
    tail = rng.choice(values) if isinstance(values, list) else values
    return relation, head, tail, rng.choice(templates).format(h=head, t=tail)


def read_relation(rng):
    relation, head, tail, sentence = relation_sentence(rng)
    second = relation_sentence(rng)
    both = sentence + second[3] if rng.random() < 0.5 else second[3] + sentence
    plain = PLAIN_RELATIONS[relation]
    if (relation, head) == second[:2] or tail == second[2]:
        both = sentence  # two answers would be right
    kind = rng.randrange(3)
    if kind == 0:
        return f"{both}\n问：文中{head}的{plain}是什么？", tail
    if kind == 1:
        return f"{sentence}\n问：{tail}是{head}的什么？", plain
    return f"{both}\n问：{plain}是{tail}的是什么病？", head


def relation_arrows(rng):
    items = [relation_sentence(rng) for _ in range(rng.randint(1, 2))]
    text = "".join(i[3] for i in items)
    wanted = rng.sample(list(PLAIN_RELATIONS), 2)
    for item in items:
        if item[0] not in wanted:
            wanted.append(item[0])
    order = [PLAIN_RELATIONS[r] for r in wanted]
    items.sort(key=lambda item: wanted.index(item[0]))
    arrows = "\n".join(f"（{PLAIN_RELATIONS[r]}）{h}→{t}" for r, h, t, _ in items)
    return f"{text}\n画成箭头，箭头种类：{'、'.join(order)}", arrows


def know(rng):
    relation = rng.choice(["药物治疗", "辅助检查", "就诊科室"])
    head = rng.choice(w.NAMES)
    values = w.DISEASES[head][w.RELATIONS[relation][1]]
    return f"常识：{head}的{PLAIN_RELATIONS[relation]}首先是？", values[0] if isinstance(values, list) else values


def topic(rng):
    label = rng.choice(list(w.INTENTS))
    text = tasks.fill(rng, rng.choice(w.INTENTS[label][1]))
    if rng.random() < 0.5:
        return f"{text}\n他想打听哪方面？", w.INTENTS[label][0]
    plain = [w.INTENTS[k][0] for k in rng.sample([k for k in w.INTENTS if k != label], 4)] + [w.INTENTS[label][0]]
    rng.shuffle(plain)
    return f"{text}\n他想打听哪方面（{'、'.join(plain)}）？", w.INTENTS[label][0]


def kind_of_criterion(rng):
    label = rng.choice(list(w.CRITERIA))
    text = tasks.fill(rng, rng.choice(w.CRITERIA[label][1]))
    if rng.random() < 0.5:
        return f"{text}\n这一条管的是哪件事？", w.CRITERIA[label][0]
    plain = [w.CRITERIA[k][0] for k in rng.sample([k for k in w.CRITERIA if k != label], 4)] + [w.CRITERIA[label][0]]
    rng.shuffle(plain)
    return f"{text}\n这一条管的是哪件事（{'、'.join(plain)}）？", w.CRITERIA[label][0]


def ask_polarity(rng):
    core, _, target, _ = tasks.mdcfnpc(rng, rng.randrange(1000))
    pairs = [line.split("：") for line in target.split("\n")[1:]]
    if rng.random() < 0.5:
        finding, polarity = rng.choice(pairs)
        return f"{core}\n病人自己到底有没有{finding}？", PLAIN_POLARITIES[polarity]
    rng.shuffle(pairs)
    cards = "、".join(f for f, _ in pairs)
    return f"{core}\n记分卡：{cards}", "\n".join(f"{f}={PLAIN_POLARITIES[p]}" for f, p in pairs)


def note(rng):
    core, facts = tasks.consultation(rng)
    fields = [("病名", facts["disease"]), ("哪里难受", facts["main"]), ("多久", facts["duration"]),
              ("问到", facts["asked"] + ("，有" if facts["has"] else "，没有")),
              ("化验", facts["test"] + facts["result"] if facts["test"] else "没做"), ("老毛病", facts["past"] or "没有"),
              ("办法", facts["advice"])]
    if rng.random() < 0.4:
        key, value = rng.choice(fields)
        return f"{core}\n小条：{key}？", value
    chosen = rng.sample(fields, rng.randint(2, 5))
    return f"{core}\n填卡片：{'、'.join(k for k, _ in chosen)}", "\n".join(f"{k}={v}" for k, v in chosen)


def chat(rng):
    core, _, reply, _ = tasks.meddg(rng, rng.randrange(1, 6))
    name = core.split("考虑是")[1].split("。")[0]
    kind, word = "道谢", "没有"
    for plain, words in (("药", w.drugs(name)), ("化验", w.tests(name)), ("科室", [w.department(name)]),
                         ("保养", [w.advice(name)])):
        if any(word in reply for word in words):
            kind, word = plain, words[0]
            break
    if rng.random() < 0.4:
        return f"{core}\n病人最后提的是哪件事？", kind
    return f"{core}\n护士只回一个词：", word


KINDS = {
    "text-copy": copy, "text-pick": pick, "text-lookup": lookup, "text-list": list_findings, "text-ask": ask_finding,
    "text-table": finding_table, "text-choose": choose, "text-read": read_relation, "text-arrows": relation_arrows,
    "text-know": know, "text-topic": topic, "text-kind": kind_of_criterion, "text-polarity": ask_polarity,
    "text-note": note, "text-chat": chat,
}
# Copying is what most answers are made of, so it comes more often; facts that only have to be known come less often.
SCHEDULE = [k for k in KINDS if k != "text-know"] * 2 + ["text-copy", "text-lookup", "text-choose", "text-know"]
