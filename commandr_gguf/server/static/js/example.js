// Two short documents and a question, to see what citations are before one's own documents are at hand.

export const EXAMPLE = {
  question: "When was the Velmora Bridge opened and who designed it?",
  documents: [
    ["Velmora Bridge.md", "The Velmora Bridge was opened in 1987. It was designed by Pell Orsin."],
    ["Harrow Library.md", "The Harrow Library is headed by Nora Quill. It owns 48,000 objects."],
  ],
};
