"""The eight tasks, in PromptCBLUE's instruction and answer formats. Each maker takes a random.Random and a running
number (for balance) and returns (core, input, target, answer_choices); `core` is the input without instruction."""

import clinical_words as w


def cmeie(rng, number):
    relations = list(w.RELATIONS)
    first = relations[number % len(relations)]
    others = [r for r in relations if r != first]
    rng.shuffle(others)
    used = [first] + (others[:1] if number % 3 == 0 else [])
    absent = others[1:2] if rng.random() < 0.5 else []
    head = rng.choice(w.NAMES)
    tails, sentences = {}, []
    for relation in used:
        templates, field = w.RELATIONS[relation]
        values = w.DISEASES[head][field]
        tails[relation] = rng.choice(values) if isinstance(values, list) else values
        sentences.append(rng.choice(templates).format(h=head, t=tails[relation]))
    core = "".join(sentences)
    choices = used + absent
    rng.shuffle(choices)
    labels = "，".join(choices)
    source = rng.choice([
        f"抽取句子里给定关系的实体对：\n{core}\n关系：{labels}\n答：",
        f"{core}\n请找出句中有下列关系的头尾实体。\n关系：{labels}\n答：",
        f"句子：{core}\n关系：{labels}\n按关系给出三元组：",
    ])
    target = "\n".join(f"具有{r}关系的头尾实体对如下：头实体为{head}，尾实体为{tails[r]}。" for r in choices if r in tails)
    return core, source, target, choices


def cdn(rng, number):
    names = rng.sample(w.NAMES, 4)
    options = [rng.choice(w.QUALIFIERS) + name for name in names]
    if number % 4 == 0:
        pair = sorted(rng.sample(range(4), 2))
        ordered = [names[i] for i in pair]
        rng.shuffle(ordered)
        raw = rng.choice(w.FREE_PAIRS).format(*ordered)
        answers = [options[i] for i in pair]
    else:
        raw = rng.choice(w.FREE_WORDINGS).format(names[number % 4])
        answers = [options[number % 4]]
    labels = "，".join(options)
    source = rng.choice([
        f"诊断归一化：\n{raw}\n选项：{labels}\n说明：选出与原诊断对应的标准词\n答：",
        f"{raw}\n上面的诊断归一后的标准词是？\n选项：{labels}\n答：",
        f"给出诊断原词的标准词：\n{raw}\n医学实体选项：{labels}\n答：",
    ])
    return raw + labels, source, "，".join(answers), options


def cdee(rng, number):
    events, phrases = [], []
    if rng.random() < 0.5:
        part, head = rng.choice(w.PARTS), rng.choice(w.PART_FINDINGS)
    else:
        part, head = "", rng.choice(w.SYMPTOMS)
    degree = rng.choice(w.DEGREES) if rng.random() < 0.6 else ""
    phrases.append(f"{rng.choice(w.PATIENTS)}{rng.choice(w.TIMES)}出现{degree}{part}{head}")
    events.append((head, "", degree, part))
    others = [s for s in w.SYMPTOMS if s != head]
    rng.shuffle(others)
    if number % 4 != 0:
        phrases.append(f"无{others[0]}")
        events.append((others[0], "否定", "", ""))
    if number % 4 == 3:
        phrases.append(f"可疑{others[1]}")
        events.append((others[1], "不确定", "", ""))
    core = "，".join(phrases) + "。"
    source = rng.choice([
        f"抽取临床发现事件：\n{core}\n说明：事件由主体词，发生状态，描述词和解剖部位组成\n答：",
        f"{core}\n句中有哪些临床发现事件及其属性？\n答：",
        f"给出下面句子的临床发现事件属性：\n{core}\n说明：包含发生状态，描述词和解剖部位\n答：",
    ])
    lines = [f"主体词：{h}；发生状态：{s}；描述词：{d}；解剖部位：{p}" for h, s, d, p in events]
    return core, source, "上述句子中的临床发现事件如下：\n" + "\n".join(lines), None


def mdcfnpc(rng, number):
    count = 2 + number % 2
    findings = rng.sample(w.SYMPTOMS, count)
    turns, polarities = [], []
    for finding in findings:
        polarity = rng.choice(w.POLARITIES)
        polarities.append(polarity)
        turns.append(f"医生：{rng.choice(w.QUESTIONS).format(finding)}\n患者：{rng.choice(w.REPLIES[polarity])}。")
    core = "\n".join(turns)
    labels = "，".join(w.POLARITIES)
    source = rng.choice([
        f"{core}\n问题：对话中这些临床发现的阴阳性是？\n临床发现实体：{'，'.join(findings)}\n选项：{labels}\n答：",
        f"判断对话里临床发现的阴阳性：\n{core}\n临床发现实体：{'，'.join(findings)}\n选项：{labels}\n答：",
    ])
    lines = [f"{f}：{p}" for f, p in zip(findings, polarities)]
    return core, source, "上述对话中临床发现实体以及其阴阳性判别如下：\n" + "\n".join(lines), list(w.POLARITIES)


def fill(rng, template):
    """A template with random words in its slots."""
    first, second = rng.sample(w.NAMES, 2)
    symptom, symptom2 = rng.sample(w.SYMPTOMS, 2)
    return template.format(d=first, d2=second, s=symptom, s2=symptom2, m=rng.choice(w.DRUGS), e=rng.choice(w.TESTS),
                           n=rng.choice([18, 20, 25, 30, 35, 40, 50, 60, 65, 70, 75, 80]), k=rng.randint(2, 12))


def ctc(rng, number):
    label = list(w.CRITERIA)[number % len(w.CRITERIA)]
    core = fill(rng, rng.choice(w.CRITERIA[label][1])) + rng.choice(["。", "；", ""])
    choices = [c for c in w.CRITERIA if c != label]
    choices = rng.sample(choices, 5) + [label]
    rng.shuffle(choices)
    labels = "，".join(choices)
    source = rng.choice([
        f"判断筛选标准的类型：\n{core}\n选项：{labels}\n答：",
        f"{core}\n这是哪一类临床试验筛选标准？\n类型选项：{labels}\n答：",
        f"临床试验筛选标准归类：\n{core}\n选项：{labels}\n答：",
    ])
    return core, source, label, choices


def qic(rng, number):
    label = list(w.INTENTS)[number % len(w.INTENTS)]
    core = fill(rng, rng.choice(w.INTENTS[label][1]))
    choices = list(w.INTENTS)
    rng.shuffle(choices)
    labels = "，".join(choices)
    source = rng.choice([
        f"判断搜索词的意图：\n{core}\n选项：{labels}\n答：",
        f"{core}\n这个搜索词属于什么意图？\n意图选项：{labels}\n答：",
        f"医疗搜索意图分类：\n{core}\n选项：{labels}\n答：",
    ])
    return core, source, label, choices


def consultation(rng):
    """A short talk between doctor and patient, and its facts by name."""
    name = rng.choice(w.NAMES)
    main, asked = rng.sample(w.symptoms(name), 2)
    if rng.random() < 0.5:
        asked = rng.choice([s for s in w.SYMPTOMS if s != main])
    has = rng.random() < 0.5
    duration = rng.choice(w.DURATIONS)
    test = rng.choice(w.tests(name)) if rng.random() < 0.7 else None
    result = rng.choice(["正常", "异常", "偏高"])
    past = rng.choice([n for n in w.NAMES if n != name]) if rng.random() < 0.6 else None
    if rng.random() < 0.5:
        plan, advice = f"可以吃{(drug := rng.choice(w.drugs(name)))}", f"口服{drug}"
    else:
        plan = advice = w.advice(name)
    turns = [
        f"患者：{rng.choice(w.PERSONS)}{main}{duration}了。",
        f"医生：{rng.choice(w.QUESTIONS).format(asked)}",
        f"患者：{rng.choice(w.REPLIES[w.PRESENT if has else w.ABSENT])}。",
        "医生：做过检查吗？",
        f"患者：查了{test}，{result}。" if test else "患者：还没查。",
        "医生：以前有什么病？",
        f"患者：有{past}。" if past else "患者：都挺好。",
        f"医生：考虑{name}，{plan}。",
    ]
    facts = {"disease": name, "main": main, "asked": asked, "has": has, "duration": duration, "test": test,
             "result": result, "past": past, "advice": advice}
    return "\n".join(turns), facts


def mrg(rng, number):
    core, facts = consultation(rng)
    source = rng.choice([
        f"根据问诊对话写出诊疗报告：\n{core}\n说明：报告分为主诉, 现病史, 辅助检查, 既往史, 诊断, 建议六个章节。\n答：",
        f"{core}\n请总结上面的问诊，给出诊疗报告。\n答：",
    ])
    lines = [
        f"主诉：{facts['main']}{facts['duration']}。",
        f"现病史：出现{facts['main']}{facts['duration']}，{'有' if facts['has'] else '无'}{facts['asked']}。",
        f"辅助检查：{facts['test']}{facts['result']}。" if facts["test"] else "辅助检查：暂无。",
        f"既往史：曾患{facts['past']}。" if facts["past"] else "既往史：体健。",
        f"诊断：{facts['disease']}。",
        f"建议：{facts['advice']}。",
    ]
    return core, source, "上述问诊对话的诊疗报告如下：\n" + "\n".join(lines), None


def meddg(rng, number):
    name = rng.choice(w.NAMES)
    main, second = rng.sample(w.symptoms(name), 2)
    first = f"患者：{rng.choice(w.PERSONS)}{main}{rng.choice(w.DURATIONS)}了，还有{second}。"
    known = f"{first}\n医生：考虑是{name}。\n"
    kind = number % 6
    if kind == 0:
        core, reply = f"{first}", f"您好，{main}厉害吗？"
    elif kind == 1:
        core, reply = f"{known}患者：{rng.choice(['吃什么药？', '用什么药好？', '要吃药吗？'])}", f"可以口服{w.drugs(name)[0]}。"
    elif kind == 2:
        core, reply = f"{known}患者：{rng.choice(['要查什么？', '需要做检查吗？', '做什么检查？'])}", f"建议先查一个{w.tests(name)[0]}看看。"
    elif kind == 3:
        core, reply = f"{known}患者：{rng.choice(['挂什么科？', '看哪个科？', '去哪个科室？'])}", f"到{w.department(name)}就诊即可。"
    elif kind == 4:
        core, reply = f"{known}患者：{rng.choice(['要注意什么？', '平时注意什么？', '生活上呢？'])}", f"平时{w.advice(name)}，好好休息。"
    else:
        core, reply = f"{known}患者：{rng.choice(['谢谢医生。', '好的，谢谢。', '明白了，谢谢。'])}", "不客气，祝早日康复。"
    source = rng.choice([
        f"写出医生的下一句回复：\n{core}\n答：",
        f"问诊对话：\n{core}\n医生接下来应该怎么回复？\n答：",
    ])
    return core, source, reply, None


TASKS = {
    "CMeIE": ("spo_generation", cmeie),
    "CHIP-CDN": ("normalization", cdn),
    "CHIP-CDEE": ("event_extraction", cdee),
    "CHIP-MDCFNPC": ("attr_cls", mdcfnpc),
    "CHIP-CTC": ("cls", ctc),
    "KUAKE-QIC": ("cls", qic),
    "IMCS-V2-MRG": ("report_generation", mrg),
    "MedDG": ("response_generation", meddg),
}
