#include "moelora/io/sha256.h"

#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "io/raises.h"
#include "io/sha256_blocks.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

struct KnownDigest {
  std::string text;
  const char* digest;
};

// The examples of FIPS 180-4 and of NIST's test vectors.
std::vector<KnownDigest> known_digests() {
  return {{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
          {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
          {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
          {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
           "nopqrstu",
           "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
          {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
}

TEST(Sha256, MatchesKnownDigests) {
  for (const auto& [text, digest] : known_digests()) {
    EXPECT_EQ(sha256_of(text), digest) << text.size() << " bytes";
  }
}

TEST(Sha256, DoesNotDependOnHowTheBytesArrive) {
  std::string text;
  for (int i = 0; i < 1000; ++i) {
    text += static_cast<char>(i * 31);
  }
  const std::string whole = sha256_of(text);
  for (const std::size_t piece : {1u, 3u, 55u, 56u, 63u, 64u, 65u, 127u, 128u, 999u}) {
    Sha256 hash;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      hash.update(std::string_view(text).substr(at, piece));
    }
    EXPECT_EQ(hash.hex(), whole) << piece;
  }
}

TEST(Sha256, HardwareAndPortableBlocksAgree) {
  if (!sha256_hardware_present()) {
    GTEST_SKIP() << "this processor has no SHA instructions";
  }
  std::vector<std::uint8_t> bytes(64 * 33);
  std::uint32_t random = 1;
  for (std::uint8_t& byte : bytes) {
    random = random * 1664525u + 1013904223u;
    byte = static_cast<std::uint8_t>(random >> 24);
  }
  for (const std::size_t blocks : {0u, 1u, 2u, 33u}) {
    Sha256State portable{1, 2, 3, 4, 0xfffffff5, 6, 7, 8};
    Sha256State hardware = portable;
    sha256_blocks_portable(portable, bytes.data(), blocks);
    sha256_blocks_hardware(hardware, bytes.data(), blocks);
    EXPECT_EQ(portable, hardware) << blocks;
  }
}

TEST(Sha256, PortableBlocksMatchAKnownDigest) {
  Sha256State state{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> padded{'a', 'b', 'c', 0x80};
  padded[63] = 24;
  sha256_blocks_portable(state, padded.data(), 1);
  const Sha256State expected{0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223,
                             0xb00361a3, 0x96177a9c, 0xb410ff61, 0xf20015ad};
  EXPECT_EQ(state, expected);
}

TEST(Sha256, HashesFiles) {
  const testing::TemporaryFolder folder;
  const std::string text(3000001, 'x');
  std::ofstream(folder.path() / "f", std::ios::binary) << text;
  EXPECT_EQ(sha256_of_file(folder.path() / "f"), sha256_of(text));
  std::ofstream(folder.path() / "empty");
  EXPECT_EQ(sha256_of_file(folder.path() / "empty"), sha256_of(""));
  EXPECT_TRUE(raises([&] { sha256_of_file(folder.path() / "absent"); }, "No such file"));
  EXPECT_TRUE(raises([&] { sha256_of_file(folder.path()); }, "cannot read"));
}

}  // namespace
}  // namespace moelora::io
