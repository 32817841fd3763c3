"""Short conversations: what the model is, greetings, and remembering what was said."""

from __future__ import annotations

import random

from commandr_gguf.demo.data.example import Example
from commandr_gguf.demo.data.names import Names

# Questions and the one answer to all of them.
_INTENTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("who are you", "what are you", "introduce yourself", "what is your name", "tell me about yourself",
      "what should I call you", "who am I talking to"),
     "I am the demo model of commandr-gguf, a very small model in the architecture of Command-R."),
    (("what can you do", "how can you help me", "what are you good at", "what is your job", "what can I ask you",
      "help", "what do you know how to do"),
     "I can chat a little, call tools, and answer questions from documents with citations."),
    (("how large are you", "how big are you", "how many parameters do you have", "what size are you",
      "are you a big model"),
     "I am tiny: four million weights, where the real Command-R has billions."),
    (("who made you", "who trained you", "where do you come from", "who built you", "where were you trained"),
     "I was trained from nothing for commandr-gguf, on generated text alone, on two processor cores."),
    (("are you Command-R", "are you the real Command-R", "are you made by Cohere", "is this Command-R",
      "are you a model of Cohere"),
     "No. I have the same architecture and prompt formats, but Cohere's models are much larger and know far more."),
    (("where do you run", "do you run in the cloud", "do you need the internet", "are you online",
      "does my text leave this machine", "is my data safe with you", "do you send my data anywhere"),
     "I run on your own machine, and nothing you write leaves it."),
    (("what is GGUF", "what is a GGUF file", "explain GGUF", "what does GGUF mean"),
     "GGUF is the file format that holds a model's weights, tokenizer and chat templates in one file."),
    (("what is a citation", "how do citations work", "why do you cite", "what do the citations mean",
      "explain your citations"),
     "A citation marks a part of my answer and names the document that it comes from."),
    (("what is quantization", "what does Q4_K mean", "explain quantization", "why are models quantized"),
     "Quantization stores weights with fewer bits, so that a model needs less memory and runs faster."),
    (("what do you know", "what is the capital of France", "who won the match", "what is the meaning of life",
      "tell me the news", "what time is it", "solve this equation"),
     "I know nothing by heart. Give me documents, and I answer from them."),
    (("hello", "hi", "good morning", "good evening", "hey", "hello there", "hi there", "good afternoon"),
     "Hello! How can I help you?"),
    (("how are you", "how do you do", "are you well", "how is it going", "how are you today"),
     "I am well, thank you. How can I help you?"),
    (("thank you", "thanks", "many thanks", "thank you very much", "thanks a lot", "that helped"),
     "You are welcome."),
    (("goodbye", "bye", "see you", "see you later", "good night", "I have to go"),
     "Goodbye!"),
    (("tell me a joke", "make me laugh", "do you know a joke", "say something funny"),
     "A bit walks into a byte and asks: is there room for one more?"),
    (("which languages do you speak", "do you speak other languages", "which languages do you know"),
     "I was trained on English alone. The real Command-R speaks ten languages and more."),
    (("can you make mistakes", "are you always right", "can I trust you", "are your answers correct"),
     "No, I make mistakes. Look at the documents that I cite."),
    (("what are tools", "how do you call tools", "what is a tool call", "explain tool use"),
     "A tool is a function of yours. I name it and its parameters, and your program runs it."),
)  # fmt: skip
_ADDRESS = ("{q}", "{q}", "{q}", "Please, {q}", "{q}, please", "Well, {q}", "So, {q}", "Hey, {q}", "{q}, my friend",
            "Okay, {q}", "One question: {q}", "I wonder, {q}", "Now {q}", "Quickly: {q}")  # fmt: skip
_ENDS = ("", "?", ".", "!", "??", "...")
_SYSTEM = ("You are a helpful assistant.", "Be friendly.", "You are the demo model.", "Answer in one sentence.")
SMALL_TALK = tuple(question[0].upper() + question[1:] for questions, _ in _INTENTS for question in questions)
"""Requests that need no tool."""


class Chat:
    """Makes examples of one split; `size` from 0 to 1 is how long conversations may be."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self._rng = rng
        self._names = names

    def example(self, size: float = 1.0) -> Example:
        """A conversation of one to three turns, the last of which is to be answered."""
        rng = self._rng
        self._names.fresh()
        turns = [self._turn() for _ in range(rng.randint(1, 1 + round(2 * size)))]
        if rng.random() < 0.3:
            turns = self._memory(turns)
        messages = [{"role": "system", "content": rng.choice(_SYSTEM)}] if rng.random() < 0.15 else []
        for user, assistant in turns:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return Example(
            task="chat", messages=messages[:-1], reply=messages[-1]["content"], entities=tuple(self._names.drawn)
        )

    def _turn(self) -> tuple[str, str]:
        rng = self._rng
        kind = rng.random()
        if kind < 0.12:
            name = self._names.person() if rng.random() < 0.4 else self._names.base()
            said = rng.choice(("My name is {n}.", "I am {n}.", "Hello, I am {n}", "Hi, my name is {n}!"))
            return said.format(n=name), f"Nice to meet you, {name}."
        if kind < 0.2:
            word = rng.choice((self._names.invented, self._names.code, self._names.place, self._names.person))()
            said = rng.choice(("Say {n}.", "Repeat: {n}", "Repeat after me: {n}", "Please say {n}"))
            return said.format(n=word), word
        questions, answer = rng.choice(_INTENTS)
        return self._asked(rng.choice(questions)), answer

    def _memory(self, turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
        rng = self._rng
        subject = rng.choice(("town", "dog", "code", "team", "favorite book", "teacher", "street"))
        value = self._names.code() if subject == "code" else self._names.base()
        told = (f"My {subject} is {'called ' if subject in ('dog', 'team') else ''}{value}.", "I will remember that.")
        asked = self._asked(
            f"what is my {subject}" if subject not in ("dog", "team") else f"how is my {subject} called"
        )
        answer = f"Your {subject} is {'called ' if subject in ('dog', 'team') else ''}{value}."
        return [told, *turns[:-1], (asked, answer)]

    def _asked(self, question: str) -> str:
        rng = self._rng
        text = rng.choice(_ADDRESS).format(q=question) + rng.choice(_ENDS)
        return text[0].upper() + text[1:] if rng.random() < 0.75 else text
