#include "eval/jieba_tables.h"

#include <charconv>
#include <cmath>

#include "moelora/eval/python_text.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora::eval {
namespace {

namespace fs = std::filesystem;

constexpr double kImpossible = -3.14e100;  // the package's logarithm of 0
constexpr const char* kAdvice = ": fetch the tables of jieba 0.42.1 anew with cmake/setup.sh";

std::size_t place_of(char letter, const fs::path& path) {
  constexpr std::string_view kLetters = "BEMS";
  const std::size_t place = kLetters.find(letter);
  MOELORA_CHECK(place != std::string_view::npos, path.string(), ": expected the states B, E, M and S, found `", letter,
                "`", kAdvice);
  return place;
}

// `P = {…}` as the package writes it: nested dictionaries of one-character strings and numbers. Reads values in their
// order; nothing is executed.
class PythonTable {
 public:
  PythonTable(const fs::path& path, std::string_view text) : path_(path), text_(text) {
    at_ = text.find("P=");
    expect(at_ != std::string_view::npos, "`P={`");
    at_ += 2;
  }

  // {key: value, …}: calls on_value(key) with the reader before each value.
  template <typename OnValue>
  void read_dictionary(const OnValue& on_value) {
    expect(take('{'), "`{`");
    while (!take('}')) {
      const char32_t key = read_key();
      expect(take(':'), "`:`");
      on_value(key);
      if (take(',')) continue;
      expect(take('}'), "`,` or `}`");
      break;
    }
  }

  double read_number() {
    skip_space();
    double value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    expect(error == std::errc{} && std::isfinite(value), "a number");
    at_ = static_cast<std::size_t>(end - text_.data());
    return value;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  char32_t read_key() {
    expect(take('\''), "a string");
    char32_t key = 0;
    if (text_.substr(at_, 2) == "\\u") {
      std::uint32_t value = 0;
      const std::string_view digits = text_.substr(at_ + 2, 4);
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
      expect(error == std::errc{} && end == digits.data() + 4, "four hexadecimal digits");
      key = value;
      at_ += 6;
    } else {
      expect(at_ < text_.size(), "a character");
      const text::CodePoint c = text::code_point_at(text_, at_);
      key = c.value;
      at_ += c.size;
    }
    expect(at_ < text_.size() && text_[at_] == '\'', "a string of one character");
    ++at_;
    return key;
  }
  void expect(bool holds, const char* what) const {
    MOELORA_CHECK(holds, path_.string(), ": expected ", what, " at byte ", std::min(at_, text_.size()), kAdvice);
  }

  const fs::path& path_;
  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

JiebaTables::JiebaTables(const fs::path& folder) {
  read_words(folder / "dict.txt");
  read_model(folder);
}

void JiebaTables::read_words(const fs::path& path) {
  text_ = io::read_text_file(path);
  words_.reserve(text_.size() / 8);  // about ten bytes for a word or its beginning
  std::int64_t total = 0;
  std::size_t line_number = 0;
  for (const std::string_view line : text::split(text_, "\n")) {
    ++line_number;
    if (line.empty() && line.data() == text_.data() + text_.size()) break;  // after the last line end
    const std::size_t space = line.find(' ');
    const std::string_view word = line.substr(0, space);
    std::int64_t frequency = 0;
    bool readable = space != std::string_view::npos && !word.empty();
    if (readable) {
      const char* digits = line.data() + space + 1;
      const auto [end, error] = std::from_chars(digits, line.data() + line.size(), frequency);
      readable = error == std::errc{} && frequency >= 0 && (end == line.data() + line.size() || *end == ' ');
    }
    MOELORA_CHECK(readable, path.string(), " line ", line_number, ": expected a word and its count, found `",
                  text::valid_utf8(line.substr(0, 40)), "`", kAdvice);
    words_[word] = frequency;
    total += frequency;
    for (std::size_t end = 0; end < word.size();) {
      end += text::code_point_at(word, end).size;
      words_.try_emplace(word.substr(0, end), 0);
    }
  }
  MOELORA_CHECK(total > 0, path.string(), ": expected words with their counts, found none", kAdvice);
  log_total_ = std::log(static_cast<double>(total));
}

void JiebaTables::read_model(const fs::path& folder) {
  start_.fill(kImpossible);
  for (PlaceScores& row : transitions_) row.fill(kImpossible);
  PlaceScores none;
  none.fill(kImpossible);
  emissions_.assign(kLastHan - kFirstHan + 1, none);

  const fs::path start_path = folder / "prob_start.py";
  const std::string start_text = io::read_text_file(start_path);
  PythonTable start(start_path, start_text);
  start.read_dictionary(
      [&](char32_t place) { start_[place_of(static_cast<char>(place), start_path)] = start.read_number(); });

  const fs::path transition_path = folder / "prob_trans.py";
  const std::string transition_text = io::read_text_file(transition_path);
  PythonTable transition(transition_path, transition_text);
  transition.read_dictionary([&](char32_t from) {
    PlaceScores& row = transitions_[place_of(static_cast<char>(from), transition_path)];
    transition.read_dictionary(
        [&](char32_t to) { row[place_of(static_cast<char>(to), transition_path)] = transition.read_number(); });
  });

  const fs::path emission_path = folder / "prob_emit.py";
  const std::string emission_text = io::read_text_file(emission_path);
  PythonTable emission(emission_path, emission_text);
  std::size_t characters = 0;
  emission.read_dictionary([&](char32_t place) {
    const std::size_t column = place_of(static_cast<char>(place), emission_path);
    emission.read_dictionary([&](char32_t han) {
      const double score = emission.read_number();
      ++characters;
      if (han >= kFirstHan && han <= kLastHan) emissions_[han - kFirstHan][column] = score;
    });
  });
  MOELORA_CHECK(characters > 0, emission_path.string(), ": expected probabilities of characters, found none", kAdvice);
}

}  // namespace moelora::eval
