#pragma once
// Similarity of texts: cosine of tf-idf vectors over bigrams of characters, by an inverted index.

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moelora::data {

class BigramIndex {
 public:
  explicit BigramIndex(const std::vector<std::string_view>& texts);

  /// [texts]: the cosine times the length of the query's vector, which is the same for all texts and so leaves their
  /// order alone. The same bits in every call.
  std::vector<double> similarities(std::string_view query) const;

 private:
  struct Posting {
    std::int32_t text;
    float weight;  ///< count · idf, divided by the length of the text's vector
  };
  struct Term {
    double idf = 0.0;
    std::vector<Posting> postings;
  };
  std::unordered_map<std::uint64_t, Term> terms_;
  std::size_t texts_;
};

}  // namespace moelora::data
