#include "sluice/runtime/checksum.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "sluice/runtime/random.h"

namespace sluice {
namespace {

TEST(Crc32c, HasTheKnownCheckValue) { EXPECT_EQ(crc32c(std::string_view("123456789")), 0xE3069283u); }

TEST(Crc32c, OfNothingIsZero) { EXPECT_EQ(crc32c({}), 0u); }

// RFC 3720, appendix B.4.
TEST(Crc32c, MatchesTheVectorsOfIscsi) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
}

TEST(Crc32c, ContinuesFromASeed) {
  const std::string_view text = "the quick brown fox jumps over the lazy dog";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(crc32c(text.substr(cut), crc32c(text.substr(0, cut))), crc32c(text)) << cut;
  }
}

TEST(Crc32c, IsTheSameByTableAndByInstruction) {
  Random random(1);
  std::string bytes;
  for (int i = 0; i < 200; ++i) {
    const auto seed = static_cast<std::uint32_t>(random.next());
    // Also from an odd address, where words are not aligned.
    const auto view = std::string_view(bytes).substr(bytes.size() % 8 == 0 ? 0 : 1);
    ASSERT_EQ(crc32c(view, seed), detail::crc32c_by_table(view, seed)) << bytes.size();
    bytes += static_cast<char>(random.next());
  }
  for (int i = 0; i < 20'000; ++i) bytes += static_cast<char>(random.next());
  for (int i = 0; i < 300; ++i) {
    const auto seed = static_cast<std::uint32_t>(random.next());
    // Around whole numbers of what is worked on at a time, too.
    const std::size_t size = i < 150 ? random.below(20'000) : 3072 * (1 + random.below(5)) - 10 + random.below(20);
    const auto view = std::string_view(bytes).substr(random.below(10), size);
    ASSERT_EQ(crc32c(view, seed), detail::crc32c_by_table(view, seed)) << size;
  }
}

}  // namespace
}  // namespace sluice
