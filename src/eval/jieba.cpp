// The algorithm of the Python package jieba 0.42.1: words of the dictionary along the most probable way, then a hidden
// Markov model over characters that stand alone. Sums are taken in the package's order, so that ties fall alike.

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include "eval/jieba_tables.h"
#include "moelora/eval/python_text.h"
#include "moelora/eval/segmenter.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

bool is_han(char32_t c) { return c >= kFirstHan && c <= kLastHan; }

bool is_ascii_digit(char32_t c) { return c >= '0' && c <= '9'; }

bool is_ascii_word(char32_t c) { return is_ascii_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// What the dictionary is asked about; all other characters are words by themselves.
bool is_cut_by_words(char32_t c) {
  constexpr std::u32string_view kMarks = U"+#&._%-";
  return is_han(c) || is_ascii_word(c) || kMarks.find(c) != std::u32string_view::npos;
}

class Cutter {
 public:
  Cutter(const JiebaTables& tables, std::string_view text) : tables_(tables), text_(text) {
    characters_.reserve(text.size() / 2);
    offsets_.reserve(text.size() / 2 + 1);
    for (std::size_t offset = 0; offset < text.size();) {
      const text::CodePoint c = text::code_point_at(text, offset);
      characters_.push_back(c.value);
      offsets_.push_back(offset);
      offset += c.size;
    }
    offsets_.push_back(text.size());
  }

  std::vector<std::string> cut() {
    for (std::size_t i = 0; i < characters_.size();) {
      std::size_t end = i + 1;
      if (!is_cut_by_words(characters_[i])) {
        if (characters_[i] == '\r' && end < characters_.size() && characters_[end] == '\n') ++end;
        emit(i, end);
      } else {
        while (end < characters_.size() && is_cut_by_words(characters_[end])) ++end;
        cut_by_words(i, end);
      }
      i = end;
    }
    return std::move(words_);
  }

 private:
  std::string_view piece(std::size_t begin, std::size_t end) const {
    return text_.substr(offsets_[begin], offsets_[end] - offsets_[begin]);
  }
  void emit(std::size_t begin, std::size_t end) { words_.emplace_back(piece(begin, end)); }

  // Most probable way through the words of the dictionary; of equally probable ones, the longer first word.
  void cut_by_words(std::size_t begin, std::size_t end) {
    std::vector<double> score(end - begin + 1, 0.0);
    std::vector<std::size_t> next(end - begin);
    for (std::size_t i = end; i-- > begin;) {
      std::optional<double> best;
      const auto consider = [&](std::size_t after, std::int64_t frequency) {
        const double value = std::log(static_cast<double>(std::max<std::int64_t>(frequency, 1))) - tables_.log_total() +
                             score[after - begin];
        if (best && value < *best) return;
        best = value;
        next[i - begin] = after;
      };
      for (std::size_t after = i + 1; after <= end; ++after) {
        const std::int64_t* frequency = tables_.frequency(piece(i, after));
        if (frequency == nullptr) break;
        if (*frequency > 0) consider(after, *frequency);
      }
      if (!best) consider(i + 1, 0);
      score[i - begin] = *best;
    }
    std::size_t alone = begin;  // characters since then are words by themselves
    for (std::size_t i = begin; i < end;) {
      const std::size_t after = next[i - begin];
      if (after - i > 1) {
        cut_alone(alone, i);
        emit(i, after);
        alone = after;
      }
      i = after;
    }
    cut_alone(alone, end);
  }

  void cut_alone(std::size_t begin, std::size_t end) {
    if (begin == end) return;
    const std::int64_t* frequency = end - begin > 1 ? tables_.frequency(piece(begin, end)) : nullptr;
    if (end - begin > 1 && (frequency == nullptr || *frequency == 0)) {
      cut_unknown(begin, end);
      return;
    }
    for (std::size_t i = begin; i < end; ++i) emit(i, i + 1);
  }

  void cut_unknown(std::size_t begin, std::size_t end) {
    while (begin < end) {
      std::size_t after = begin;
      while (after < end && is_han(characters_[after]) == is_han(characters_[begin])) ++after;
      if (is_han(characters_[begin])) {
        cut_by_model(begin, after);
      } else {
        cut_ascii(begin, after);
      }
      begin = after;
    }
  }

  // The expression [a-zA-Z0-9]+(?:\.\d+)?%? finds words; what lies between them is one word each.
  void cut_ascii(std::size_t begin, std::size_t end) {
    std::size_t between = begin;
    for (std::size_t i = begin; i < end;) {
      if (!is_ascii_word(characters_[i])) {
        ++i;
        continue;
      }
      if (between < i) emit(between, i);
      std::size_t after = i;
      while (after < end && is_ascii_word(characters_[after])) ++after;
      if (after + 1 < end && characters_[after] == '.' && is_ascii_digit(characters_[after + 1])) {
        ++after;
        while (after < end && is_ascii_digit(characters_[after])) ++after;
      }
      if (after < end && characters_[after] == '%') ++after;
      emit(i, after);
      i = between = after;
    }
    if (between < end) emit(between, end);
  }

  // Viterbi over the places of characters in words.
  void cut_by_model(std::size_t begin, std::size_t end) {
    struct Previous {
      Place place;
      Place first, second;  // in the order of their letters
    };
    constexpr std::array<Previous, kPlaces> kPrevious{{{Place::begin, Place::end, Place::single},
                                                       {Place::end, Place::begin, Place::middle},
                                                       {Place::middle, Place::begin, Place::middle},
                                                       {Place::single, Place::end, Place::single}}};
    const std::size_t count = end - begin;
    std::vector<std::array<Place, kPlaces>> came_from(count);
    PlaceScores scores{};
    for (std::size_t place = 0; place < kPlaces; ++place) {
      scores[place] = tables_.start()[place] + tables_.emission(characters_[begin])[place];
    }
    for (std::size_t i = 1; i < count; ++i) {
      const PlaceScores before = scores;
      const PlaceScores& emission = tables_.emission(characters_[begin + i]);
      for (const auto& [place, first, second] : kPrevious) {
        const auto to = static_cast<std::size_t>(place);
        const auto value = [&, place = place](Place from) {
          return before[static_cast<std::size_t>(from)] + tables_.transition(from, place) + emission[to];
        };
        const double of_first = value(first);
        const double of_second = value(second);
        const bool takes_second = of_second >= of_first;  // a tie goes to the later letter
        scores[to] = takes_second ? of_second : of_first;
        came_from[i][to] = takes_second ? second : first;
      }
    }
    const double as_end = scores[static_cast<std::size_t>(Place::end)];
    const double as_single = scores[static_cast<std::size_t>(Place::single)];
    std::vector<Place> places(count);
    places.back() = as_single >= as_end ? Place::single : Place::end;
    for (std::size_t i = count - 1; i > 0; --i) places[i - 1] = came_from[i][static_cast<std::size_t>(places[i])];
    std::size_t word = begin;
    std::size_t rest = begin;
    for (std::size_t i = begin; i < end; ++i) {
      const Place place = places[i - begin];
      if (place == Place::begin) word = i;
      if (place != Place::end && place != Place::single) continue;
      emit(place == Place::end ? word : i, i + 1);
      rest = i + 1;
    }
    if (rest < end) emit(rest, end);
  }

  const JiebaTables& tables_;
  std::string_view text_;
  std::vector<char32_t> characters_;
  std::vector<std::size_t> offsets_;  // one more than characters
  std::vector<std::string> words_;
};

}  // namespace

struct JiebaSegmenter::Lazy {
  std::filesystem::path folder;
  std::once_flag read;
  std::unique_ptr<const JiebaTables> tables;
};

JiebaSegmenter::JiebaSegmenter(std::filesystem::path tables) : lazy_(std::make_unique<Lazy>()) {
  for (const char* file : kJiebaFiles) {
    MOELORA_CHECK(std::filesystem::is_regular_file(tables / file), "expected the tables of jieba 0.42.1 in ",
                  tables.string(), ", found no ", file,
                  ": fetch them with cmake/setup.sh, or name their folder in MOELORA_JIEBA_DIR");
  }
  lazy_->folder = std::move(tables);
}

JiebaSegmenter::~JiebaSegmenter() = default;

bool JiebaSegmenter::has_tables(const std::filesystem::path& folder) {
  return std::all_of(kJiebaFiles.begin(), kJiebaFiles.end(), [&](const char* file) {
    std::error_code ignored;
    return std::filesystem::is_regular_file(folder / file, ignored);
  });
}

std::vector<std::string> JiebaSegmenter::cut(std::string_view text) const {
  std::call_once(lazy_->read, [this] { lazy_->tables = std::make_unique<const JiebaTables>(lazy_->folder); });
  return Cutter(*lazy_->tables, text).cut();
}

}  // namespace moelora::eval
