"""Questions over documents, with answers that cite them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from commandr_gguf.demo.data.example import Example, Task
from commandr_gguf.demo.data.names import Names
from commandr_gguf.demo.data.relations import KINDS, Kind, Relation, attribute

NOT_FOUND = "I could not find the answer in the documents."
"""What is said when no document holds the answer; it is never cited."""

_POLITE = ("{q}?", "{q}?", "{q}?", "{q}?", "Please tell me: {q}?", "Can you tell me {q}?", "I want to know {q}.",
           "Hello, {q}?", "According to the documents, {q}?", "Tell me {q}.", "{q}")  # fmt: skip
_SYSTEM = (
    "Answer briefly.",
    "You help people find facts.",
    "You answer questions about documents.\nUse full sentences.",
    "## Task and Context\nYou work for a library.\n\n## Style Guide\nBe short.",
)


@dataclass(frozen=True)
class _Subject:
    name: str
    """As it stands in a sentence: "the Velmora Bridge"."""
    title: str
    pronoun: str
    kind: Kind


@dataclass(frozen=True)
class _Fact:
    subject: _Subject
    relation: Relation
    value: str


@dataclass
class _Document:
    subject: _Subject
    facts: list[_Fact]


class Grounded:
    """Makes examples of one split; `size` from 0 to 1 is how many documents and facts they may have."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self._rng = rng
        self._names = names

    def example(self, task: Task, size: float = 1.0) -> Example:
        """An example of the task "accurate" or "fast"."""
        rng = self._rng
        self._names.fresh()
        n_documents = rng.randint(1, 1 + round(4 * size))
        max_facts = 1 + round(2 * size)
        documents = self._documents(n_documents, max_facts)
        kind = rng.random()
        if kind < 0.12:
            asked, wanted = self._unknown(documents), []
        else:
            wanted = self._wanted(documents, two=kind > 0.6)
            asked = wanted
        about = {fact.subject.name for fact in asked}
        relevant = [i for i, document in enumerate(documents) if document.subject.name in about]
        cited = sorted({self._where(documents, fact) for fact in wanted})
        return Example(
            task=task,
            messages=self._messages(self._question(asked)),
            documents=self._layout(documents),
            reply=self._reply(task, documents, relevant, cited, wanted),
            cited=tuple(cited),
            facts=tuple(fact.value for fact in wanted) or (NOT_FOUND,),
            entities=tuple(self._names.drawn),
        )

    # ---- documents

    def _documents(self, count: int, max_facts: int) -> list[_Document]:
        rng = self._rng
        main = rng.choice(KINDS)
        documents: list[_Document] = []
        for _ in range(count):
            subject = self._subject(main if rng.random() < 0.6 else rng.choice(KINDS))
            documents.append(_Document(subject, self._facts(subject, rng.randint(1, max_facts))))
        rng.shuffle(documents)
        return documents

    def _subject(self, kind: Kind) -> _Subject:
        title = self._rng.choice(kind.forms).format(n=kind.name(self._names))
        return _Subject(f"the {title}" if kind.article else title, title, self._rng.choice(kind.pronouns), kind)

    def _facts(self, subject: _Subject, count: int) -> list[_Fact]:
        rng = self._rng
        chosen = rng.sample(subject.kind.relations, min(count, len(subject.kind.relations)))
        if rng.random() < 0.15:
            chosen[rng.randrange(len(chosen))] = attribute(self._names)
        return [_Fact(subject, relation, relation.value(self._names)) for relation in chosen]

    def _layout(self, documents: list[_Document]) -> list[dict[str, str]]:
        rng = self._rng
        text_key = rng.choice(("text", "text", "text", "snippet", "content"))
        titled = rng.random() < 0.75
        laid_out = []
        for document in documents:
            text = self._text(document)
            laid_out.append({"title": document.subject.title, text_key: text} if titled else {text_key: text})
        return laid_out

    def _text(self, document: _Document) -> str:
        rng = self._rng
        subject = document.subject
        sentences = []
        for i, fact in enumerate(document.facts):
            start = subject.name if i == 0 or rng.random() < 0.15 else subject.pronoun
            said = rng.choice(fact.relation.statements).format(v=fact.value)
            sentences.append(f"{_capitalized(start)} {said}.")
        return " ".join(sentences)

    # ---- question

    def _wanted(self, documents: list[_Document], *, two: bool) -> list[_Fact]:
        rng = self._rng
        facts = [fact for document in documents for fact in document.facts]
        first = rng.choice(facts)
        others = [fact for fact in facts if fact is not first]
        if not two or not others:
            return [first]
        same = [fact for fact in others if fact.subject is first.subject]
        return [first, rng.choice(same if same and rng.random() < 0.6 else others)]

    def _unknown(self, documents: list[_Document]) -> list[_Fact]:
        """Something about a subject that no document is about."""
        subject = self._subject(self._rng.choice(documents).subject.kind)
        return [_Fact(subject, self._rng.choice(subject.kind.relations), "")]

    def _question(self, facts: list[_Fact]) -> str:
        rng = self._rng
        parts = []
        for i, fact in enumerate(facts):
            subject = fact.subject
            again = i > 0 and subject is facts[0].subject
            name = subject.pronoun.lower() if again else subject.name
            parts.append(rng.choice(fact.relation.questions).format(s=name))
        question = rng.choice((" and ", ", and ")).join(parts)
        asked = rng.choice(_POLITE).format(q=question)
        return asked[0].upper() + asked[1:] if rng.random() < 0.95 else asked.lower()

    def _messages(self, question: str) -> list[dict[str, str]]:
        rng = self._rng
        user = {"role": "user", "content": question}
        if rng.random() < 0.15:
            return [{"role": "system", "content": rng.choice(_SYSTEM)}, user]
        return [user]

    # ---- reply

    def _reply(
        self, task: Task, documents: list[_Document], relevant: list[int], cited: list[int], wanted: list[_Fact]
    ) -> str:
        plain = _sentence(wanted, [fact.value for fact in wanted])
        places = [self._where(documents, fact) for fact in wanted]
        tagged = [f"<co: {i}>{fact.value}</co: {i}>" for i, fact in zip(places, wanted, strict=True)]
        lines = [f"Relevant Documents: {_numbers(relevant)}", f"Cited Documents: {_numbers(cited)}"]
        if task == "accurate":
            lines.append(f"Answer: {plain}")
        lines.append(f"Grounded answer: {_sentence(wanted, tagged)}")
        return "\n".join(lines)

    @staticmethod
    def _where(documents: list[_Document], fact: _Fact) -> int:
        return next(i for i, document in enumerate(documents) if any(f is fact for f in document.facts))


def _sentence(facts: list[_Fact], values: list[str]) -> str:
    if not facts:
        return NOT_FOUND
    said = [fact.relation.predicate.format(v=value) for fact, value in zip(facts, values, strict=True)]
    text = f"{_capitalized(facts[0].subject.name)} {said[0]}"
    if len(facts) == 2:
        same = facts[1].subject is facts[0].subject
        text += f" and {said[1]}" if same else f", and {facts[1].subject.name} {said[1]}"
    return text + "."


def _numbers(documents: list[int]) -> str:
    return ",".join(map(str, documents)) or "None"


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
