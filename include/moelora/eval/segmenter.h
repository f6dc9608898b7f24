#pragma once
// Word segmentation for Rouge. Chinese has no spaces; the reference cuts with jieba, other cutters give other scores.

#include <string>
#include <string_view>
#include <vector>

namespace moelora::eval {

class Segmenter {
 public:
  virtual ~Segmenter() = default;
  virtual std::string name() const = 0;  ///< Written beside every score that depends on it.
  virtual std::vector<std::string> cut(std::string_view text) const = 0;  ///< UTF-8; any bytes are accepted.
};

/// Every character is a word.
class CharacterSegmenter : public Segmenter {
 public:
  std::string name() const override { return "characters"; }
  std::vector<std::string> cut(std::string_view text) const override;
};

const Segmenter& default_segmenter();

}  // namespace moelora::eval
