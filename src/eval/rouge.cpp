#include "moelora/eval/rouge.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <unordered_map>
#include <utility>

#include "moelora/eval/python_text.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using WordId = std::uint32_t;
using Sentence = std::vector<WordId>;

// Words of both texts as numbers: comparing them is what most of the time goes into.
class WordNumbers {
 public:
  WordId operator()(std::string_view word) {
    return numbers_.try_emplace(word, static_cast<WordId>(numbers_.size())).first->second;
  }
  std::size_t count() const { return numbers_.size(); }

 private:
  std::unordered_map<std::string_view, WordId> numbers_;
};

// Empty pieces are no sentences.
std::vector<Sentence> numbered(const std::vector<std::string_view>& pieces, WordNumbers& number) {
  std::vector<Sentence> sentences;
  std::size_t count = 0;
  for (const std::string_view piece : pieces) {
    if (piece.empty()) continue;
    Sentence sentence;
    for (const std::string_view word : text::words(piece)) sentence.push_back(number(word));
    // "".split(" ") is one empty word.
    if (sentence.empty()) sentence.push_back(number(""));
    count += sentence.size();
    MOELORA_CHECK(count <= kMaxRougeWords, "expected at most ", kMaxRougeWords,
                  " words in a text for Rouge, found more: shorten the answer");
    sentences.push_back(std::move(sentence));
  }
  return sentences;
}

std::vector<Sentence> sentences_of(std::string_view text, WordNumbers& number) {
  return numbered(text::split(text, "."), number);
}

std::vector<WordId> all_words(const std::vector<Sentence>& sentences) {
  std::vector<WordId> words;
  for (const Sentence& sentence : sentences) words.insert(words.end(), sentence.begin(), sentence.end());
  return words;
}

std::vector<WordId> sorted_words(const std::vector<Sentence>& sentences) {
  std::vector<WordId> words = all_words(sentences);
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return words;
}

// Pairs run across sentence ends.
std::set<std::pair<WordId, WordId>> word_pairs(const std::vector<Sentence>& sentences) {
  std::set<std::pair<WordId, WordId>> pairs;
  const WordId* previous = nullptr;
  for (const Sentence& sentence : sentences) {
    for (const WordId& word : sentence) {
      if (previous != nullptr) pairs.emplace(*previous, word);
      previous = &word;
    }
  }
  return pairs;
}

RougeScore rouge_from_counts(std::size_t answer, std::size_t reference, std::size_t common) {
  RougeScore score;
  score.precision = answer == 0 ? 0.0 : static_cast<double>(common) / static_cast<double>(answer);
  score.recall = reference == 0 ? 0.0 : static_cast<double>(common) / static_cast<double>(reference);
  score.f = 2.0 * ((score.precision * score.recall) / (score.precision + score.recall + 1e-8));
  return score;
}

// Marks the words of the longest common subsequence that the reference's way back through the table finds: of several
// equally long ones the choice decides which words enter the union. One bit per cell remembers "up is longer".
void mark_common_subsequence(const Sentence& x, const Sentence& y, std::vector<bool>& marked) {
  const std::size_t columns = y.size() + 1;
  std::vector<std::uint32_t> above(columns, 0);
  std::vector<std::uint32_t> row(columns, 0);
  std::vector<bool> up((x.size() + 1) * columns, false);
  for (std::size_t i = 1; i <= x.size(); ++i) {
    for (std::size_t j = 1; j <= y.size(); ++j) {
      if (x[i - 1] == y[j - 1]) {
        row[j] = above[j - 1] + 1;
      } else {
        row[j] = std::max(above[j], row[j - 1]);
        if (above[j] > row[j - 1]) up[i * columns + j] = true;
      }
    }
    std::swap(above, row);
  }
  std::size_t i = x.size();
  std::size_t j = y.size();
  while (i > 0 && j > 0) {
    if (x[i - 1] == y[j - 1]) {
      marked[x[i - 1]] = true;
      --i;
      --j;
    } else if (up[i * columns + j]) {
      --i;
    } else {
      --j;
    }
  }
}

RougeScore rouge_l_of(const std::vector<Sentence>& answer, const std::vector<Sentence>& reference, std::size_t words) {
  std::vector<bool> marked(words, false);
  for (const Sentence& truth : reference) {
    for (const Sentence& said : answer) mark_common_subsequence(truth, said, marked);
  }
  const auto common = static_cast<std::size_t>(std::count(marked.begin(), marked.end(), true));
  return rouge_from_counts(sorted_words(answer).size(), sorted_words(reference).size(), common);
}

std::size_t common_subsequence(const std::vector<WordId>& x, const std::vector<WordId>& y) {
  std::vector<std::uint32_t> above(y.size() + 1, 0);
  std::vector<std::uint32_t> row(y.size() + 1, 0);
  for (const WordId word : x) {
    for (std::size_t j = 1; j <= y.size(); ++j) {
      row[j] = word == y[j - 1] ? above[j - 1] + 1 : std::max(above[j], row[j - 1]);
    }
    std::swap(above, row);
  }
  return above.back();
}

// How sentences end for the package rouge_chinese: four expressions in this order, each of which finds an end and the
// character after it and puts a line end between them. Matches don't overlap.
class ChineseSentences {
 public:
  static std::vector<std::string_view> cut(std::string& text) {
    end_after(
        text, [](const Characters& c, std::size_t i) { return is_mark(c[i]) ? 1 : 0; }, is_quote);
    end_after(
        text, [](const Characters& c, std::size_t i) { return run_of(c, i, ".", 6); }, is_quote);
    end_after(
        text, [](const Characters& c, std::size_t i) { return run_of(c, i, "…", 2); }, is_quote);
    end_after(
        text,
        [](const Characters& c, std::size_t i) {
          return i + 1 < c.size() && is_mark(c[i]) && is_quote(c[i + 1]) ? 2 : 0;
        },
        [](std::string_view c) { return c == "，" || is_mark(c); });
    return text::split(text, "\n");
  }

 private:
  using Characters = std::vector<std::string_view>;

  static bool is_mark(std::string_view c) { return c == "。" || c == "！" || c == "？" || c == "?"; }
  static bool is_quote(std::string_view c) { return c == "”" || c == "’"; }
  static std::size_t run_of(const Characters& c, std::size_t begin, std::string_view wanted, std::size_t count) {
    std::size_t found = 0;
    while (found < count && begin + found < c.size() && c[begin + found] == wanted) ++found;
    return found == count ? count : 0;
  }

  // `length` says how many characters an end that begins at a place has (0: none begins there); no end is one before a
  // character that `goes_on`, or the end of the text.
  template <typename Length, typename GoesOn>
  static void end_after(std::string& text, const Length& length, const GoesOn& goes_on) {
    const Characters characters = text::characters(text);
    std::string result;
    result.reserve(text.size() + 16);
    for (std::size_t i = 0; i < characters.size();) {
      const std::size_t end = i + static_cast<std::size_t>(length(characters, i));
      if (end == i || end >= characters.size() || goes_on(characters[end])) {
        result += characters[i++];
        continue;
      }
      for (; i < end; ++i) result += characters[i];
      (result += '\n') += characters[i++];
    }
    text = std::move(result);
  }
};

std::vector<Sentence> chinese_sentences_of(std::string_view raw, std::string& text, WordNumbers& number) {
  text = raw;
  std::vector<std::string_view> pieces = ChineseSentences::cut(text);
  // `rstrip` comes before the split: white space at the end makes no sentence.
  while (!pieces.empty() && text::words(pieces.back()).empty()) pieces.pop_back();
  return numbered(pieces, number);
}

template <typename Container>
std::size_t count_common(const Container& a, const Container& b) {
  std::vector<typename Container::value_type> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  return common.size();
}

RougeScores rouge_of_ngrams(const std::vector<Sentence>& said, const std::vector<Sentence>& truth) {
  RougeScores scores;
  const auto said_words = sorted_words(said);
  const auto true_words = sorted_words(truth);
  scores.rouge_1 = rouge_from_counts(said_words.size(), true_words.size(), count_common(said_words, true_words));
  const auto said_pairs = word_pairs(said);
  const auto true_pairs = word_pairs(truth);
  scores.rouge_2 = rouge_from_counts(said_pairs.size(), true_pairs.size(), count_common(said_pairs, true_pairs));
  return scores;
}

}  // namespace

RougeScores rouge(std::string_view answer, std::string_view reference) {
  WordNumbers number;
  const auto said = sentences_of(answer, number);
  const auto truth = sentences_of(reference, number);
  if (said.empty() || truth.empty()) return {};
  RougeScores scores = rouge_of_ngrams(said, truth);
  scores.rouge_l = rouge_l_of(said, truth, number.count());
  return scores;
}

RougeScores rouge_chinese(std::string_view answer, std::string_view reference) {
  WordNumbers number;
  std::string said_text;  // what the words point into
  std::string true_text;
  const auto said = chinese_sentences_of(answer, said_text, number);
  const auto truth = chinese_sentences_of(reference, true_text, number);
  if (said.empty() || truth.empty()) return {};
  RougeScores scores = rouge_of_ngrams(said, truth);
  const auto said_words = all_words(said);
  const auto true_words = all_words(truth);
  scores.rouge_l = rouge_from_counts(said_words.size(), true_words.size(), common_subsequence(true_words, said_words));
  return scores;
}

RougeScore rouge_l(std::string_view answer, std::string_view reference) {
  WordNumbers number;
  const auto said = sentences_of(answer, number);
  const auto truth = sentences_of(reference, number);
  if (said.empty() || truth.empty()) return {};
  return rouge_l_of(said, truth, number.count());
}

std::string join_tokens(const std::vector<std::string>& tokens) {
  std::string joined;
  for (const std::string& token : tokens) {
    if (&token != &tokens.front()) joined += ' ';
    joined += token;
  }
  return joined;
}

}  // namespace moelora::eval
