#include "moelora/eval/segmenter.h"

#include <cstdlib>

#include "moelora/eval/python_text.h"

#ifndef MOELORA_BUILT_JIEBA_DIR
#define MOELORA_BUILT_JIEBA_DIR ""
#endif

namespace moelora::eval {

std::vector<std::string> CharacterSegmenter::cut(std::string_view text) const {
  const auto pieces = text::characters(text);
  return {pieces.begin(), pieces.end()};
}

std::filesystem::path find_jieba_tables() {
  if (const char* named = std::getenv("MOELORA_JIEBA_DIR")) {
    if (*named == '\0') return {};
    const JiebaSegmenter checked{std::filesystem::path(named)};  // an error where they are not
    return named;
  }
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path built = MOELORA_BUILT_JIEBA_DIR;
  for (const auto& folder : {program.parent_path().parent_path() / "share" / "moelora" / "jieba", built}) {
    if (!folder.empty() && JiebaSegmenter::has_tables(folder)) return folder;
  }
  return {};
}

const Segmenter& default_segmenter() {
  static const std::unique_ptr<const Segmenter> segmenter = []() -> std::unique_ptr<const Segmenter> {
    const std::filesystem::path tables = find_jieba_tables();
    if (tables.empty()) return std::make_unique<CharacterSegmenter>();
    return std::make_unique<JiebaSegmenter>(tables);
  }();
  return *segmenter;
}

}  // namespace moelora::eval
