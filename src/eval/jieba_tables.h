#pragma once
// The tables of the Python package jieba: its dictionary, and the probabilities of the hidden Markov model that cuts
// what the dictionary doesn't know.

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace moelora::eval {

inline constexpr std::array<const char*, 4> kJiebaFiles{"dict.txt", "prob_start.py", "prob_trans.py", "prob_emit.py"};

/// Characters that the hidden Markov model cuts.
inline constexpr char32_t kFirstHan = 0x4E00;
inline constexpr char32_t kLastHan = 0x9FD5;

/// Place of a character in its word: begin, middle, end, a word by itself. The letters' order decides ties.
enum class Place : std::uint8_t { begin, end, middle, single };
inline constexpr std::size_t kPlaces = 4;
using PlaceScores = std::array<double, kPlaces>;  ///< logarithms

class JiebaTables {
 public:
  /// Error: a file that can't be read as what it is.
  explicit JiebaTables(const std::filesystem::path& folder);
  JiebaTables(const JiebaTables&) = delete;
  JiebaTables& operator=(const JiebaTables&) = delete;

  /// How often a word was counted; 0 for the beginning of a word that is none itself; nullptr for anything else.
  const std::int64_t* frequency(std::string_view word) const {
    const auto found = words_.find(word);
    return found == words_.end() ? nullptr : &found->second;
  }
  double log_total() const { return log_total_; }  ///< of all words' counts

  const PlaceScores& start() const { return start_; }
  double transition(Place from, Place to) const {
    return transitions_[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)];
  }
  const PlaceScores& emission(char32_t han) const { return emissions_[han - kFirstHan]; }

 private:
  void read_words(const std::filesystem::path& path);
  void read_model(const std::filesystem::path& folder);

  std::string text_;  // the dictionary: keys point into it
  std::unordered_map<std::string_view, std::int64_t> words_;
  double log_total_ = 0;
  PlaceScores start_{};
  std::array<PlaceScores, kPlaces> transitions_{};
  std::vector<PlaceScores> emissions_;
};

}  // namespace moelora::eval
