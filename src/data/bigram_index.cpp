#include "data/bigram_index.h"

#include <algorithm>
#include <cmath>

namespace moelora::data {
namespace {

/// The characters of UTF-8 text. A byte that belongs to none counts as one.
std::vector<std::uint32_t> characters_of(std::string_view text) {
  std::vector<std::uint32_t> characters;
  characters.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t size = first < 0x80 ? 1 : first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    std::uint32_t character = 0;
    for (std::size_t end = std::min(text.size(), i + size); i < end; ++i) {
      character = character << 8 | static_cast<unsigned char>(text[i]);
    }
    characters.push_back(character);
  }
  return characters;
}

/// Each bigram with its count, ascending, so that sums have one order.
std::vector<std::pair<std::uint64_t, std::int64_t>> bigram_counts(std::string_view text) {
  const std::vector<std::uint32_t> characters = characters_of(text);
  std::vector<std::uint64_t> bigrams;
  for (std::size_t i = 1; i < characters.size(); ++i) {
    bigrams.push_back(static_cast<std::uint64_t>(characters[i - 1]) << 32 | characters[i]);
  }
  std::sort(bigrams.begin(), bigrams.end());
  std::vector<std::pair<std::uint64_t, std::int64_t>> counts;
  for (const std::uint64_t bigram : bigrams) {
    if (counts.empty() || counts.back().first != bigram) {
      counts.emplace_back(bigram, 0);
    }
    ++counts.back().second;
  }
  return counts;
}

}  // namespace

BigramIndex::BigramIndex(const std::vector<std::string_view>& texts) : texts_(texts.size()) {
  std::vector<std::vector<std::pair<std::uint64_t, std::int64_t>>> counts;
  counts.reserve(texts.size());
  std::unordered_map<std::uint64_t, std::int64_t> document_frequency;
  for (const std::string_view text : texts) {
    counts.push_back(bigram_counts(text));
    for (const auto& [bigram, count] : counts.back()) {
      ++document_frequency[bigram];
    }
  }
  terms_.reserve(document_frequency.size());
  for (const auto& [bigram, frequency] : document_frequency) {
    terms_[bigram].idf = std::log(static_cast<double>(texts.size() + 1) / static_cast<double>(frequency));
  }
  for (std::size_t text = 0; text < counts.size(); ++text) {
    double squares = 0.0;
    for (const auto& [bigram, count] : counts[text]) {
      const double weight = static_cast<double>(count) * terms_.at(bigram).idf;
      squares += weight * weight;
    }
    const double length = std::sqrt(squares);
    for (const auto& [bigram, count] : counts[text]) {
      Term& term = terms_.at(bigram);
      term.postings.push_back(
          {static_cast<std::int32_t>(text), static_cast<float>(static_cast<double>(count) * term.idf / length)});
    }
  }
}

std::vector<double> BigramIndex::similarities(std::string_view query) const {
  std::vector<double> scores(texts_, 0.0);
  for (const auto& [bigram, count] : bigram_counts(query)) {
    const auto found = terms_.find(bigram);
    if (found == terms_.end()) {
      continue;
    }
    const double weight = static_cast<double>(count) * found->second.idf;
    for (const Posting& posting : found->second.postings) {
      scores[static_cast<std::size_t>(posting.text)] += weight * posting.weight;
    }
  }
  return scores;
}

}  // namespace moelora::data
