#pragma once
// Word segmentation for Rouge. Chinese has no spaces; the reference cuts with jieba, other cutters give other scores.

#include <filesystem>
#include <memory>
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

/// Words as the Python package jieba 0.42.1 cuts them (`jieba.cut(text)`: default dictionary, HMM on). The tables are
/// the package's own files dict.txt, prob_start.py, prob_trans.py and prob_emit.py, read as data.
class JiebaSegmenter : public Segmenter {
 public:
  /// Error: `tables` lacks one of the files. They are read when the first text is cut (Error: a damaged file, with its
  /// line).
  explicit JiebaSegmenter(std::filesystem::path tables);
  ~JiebaSegmenter() override;

  std::string name() const override { return "jieba"; }
  std::vector<std::string> cut(std::string_view text) const override;

  /// Whether the folder has all files.
  static bool has_tables(const std::filesystem::path& folder);

 private:
  struct Lazy;
  std::unique_ptr<Lazy> lazy_;
};

/// Where jieba's tables lie: the folder that the environment variable MOELORA_JIEBA_DIR names, else
/// ../share/moelora/jieba beside the program's folder (an installed program), else the folder of the build. Empty: none
/// there, or the variable is empty. Error: the variable names a folder without the tables.
std::filesystem::path find_jieba_tables();

/// Jieba where its tables are found, else characters. Found once, when first asked for.
const Segmenter& default_segmenter();

}  // namespace moelora::eval
