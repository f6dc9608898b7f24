#include "moelora/eval/segmenter.h"

#include "eval/python_text.h"

namespace moelora::eval {

std::vector<std::string> CharacterSegmenter::cut(std::string_view text) const {
  const auto pieces = text::characters(text);
  return {pieces.begin(), pieces.end()};
}

const Segmenter& default_segmenter() {
  static const CharacterSegmenter segmenter;
  return segmenter;
}

}  // namespace moelora::eval
