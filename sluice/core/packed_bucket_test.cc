#include "sluice/core/packed_bucket.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "sluice/core/shuffles.h"
#include "sluice/runtime/random.h"

namespace sluice::detail {
namespace {

const MoveKernel<std::string>& kernel() {
  static const MoveKernel<std::string> instance;
  return instance;
}

BucketPtr bucket_of(const std::vector<std::string>& texts) {
  RestedRecords records(type_ops<std::string>());
  records.append(texts.data(), texts.size());
  Encoder out;
  records.encode_to(out);
  Decoder in(out.view());
  return kernel().decode_bucket(in);
}

std::string encoded_bucket(const BucketPtr& bucket) {
  Encoder out;
  kernel().encode_bucket(*bucket, out);
  return out.take();
}

std::vector<std::string> words(std::size_t count) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < count; ++i) words.push_back("word number " + std::to_string(i % 50));
  return words;
}

/// Bytes that lz4 cannot make smaller.
std::string noise(std::size_t size) {
  Random random(7);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.below(256));
  return bytes;
}

/// What is wrong with them; Code{} when nothing is.
Code code_of(const std::string& bytes) {
  try {
    unpack_bucket(kernel(), bytes);
  } catch (const Error& error) {
    return error.code();
  }
  return Code{};
}

TEST(PackedBucket, IsTheSameBucketAfterwards) {
  for (const Compression compression : {Compression::none, Compression::lz4}) {
    for (const auto& texts : {words(0), words(1), words(10'000), std::vector{noise(100'000)}}) {
      const BucketPtr bucket = bucket_of(texts);
      const std::string packed = pack_bucket(kernel(), *bucket, compression);
      EXPECT_FALSE(packed.empty());
      EXPECT_EQ(encoded_bucket(unpack_bucket(kernel(), packed)), encoded_bucket(bucket));
    }
  }
}

TEST(PackedBucket, IsSmallerWithLz4WhereThatPays) {
  const BucketPtr large = bucket_of(words(10'000));
  const std::size_t plain = pack_bucket(kernel(), *large, Compression::none).size();
  EXPECT_EQ(plain, encoded_bucket(large).size() + 1);
  EXPECT_LT(pack_bucket(kernel(), *large, Compression::lz4).size(), plain / 4);
  for (const auto& texts : {words(20), std::vector{noise(100'000)}}) {
    const BucketPtr bucket = bucket_of(texts);
    EXPECT_EQ(pack_bucket(kernel(), *bucket, Compression::lz4), pack_bucket(kernel(), *bucket, Compression::none));
  }
}

TEST(PackedBucket, WhoseSizeIsWrongIsRefusedBeforeItIsAllocated) {
  std::string packed = pack_bucket(kernel(), *bucket_of(words(10'000)), Compression::lz4);
  ASSERT_EQ(packed[0], 1);
  const auto claim = [&](std::uint64_t size) {
    std::memcpy(packed.data() + 1, &size, sizeof size);
    return code_of(packed);
  };
  std::uint64_t size = 0;
  std::memcpy(&size, packed.data() + 1, sizeof size);
  EXPECT_EQ(claim(std::numeric_limits<std::uint64_t>::max()), Code::over_limit);
  EXPECT_EQ(claim(std::uint64_t{1} << 31), Code::over_limit);
  EXPECT_EQ(claim(packed.size() * 255), Code::over_limit);
  EXPECT_EQ(claim(size + 1), Code::corrupt_data);
  EXPECT_EQ(claim(size - 1), Code::corrupt_data);
  EXPECT_EQ(claim(0), Code::corrupt_data);
  EXPECT_EQ(claim(size), Code{});
}

TEST(PackedBucket, OfHostileBytesIsAnError) {
  EXPECT_EQ(code_of(""), Code::truncated_data);
  EXPECT_EQ(code_of(std::string(1, '\2') + noise(100)), Code::corrupt_data);
  EXPECT_EQ(code_of(std::string(1, '\1')), Code::truncated_data);
  EXPECT_NE(code_of(std::string(1, '\1') + std::string(8, '\0')), Code{});
  for (const Compression compression : {Compression::none, Compression::lz4}) {
    const std::string packed = pack_bucket(kernel(), *bucket_of(words(2'000)), compression);
    for (std::size_t size = 0; size < packed.size(); size += 1 + packed.size() / 200) {
      EXPECT_NE(code_of(packed.substr(0, size)), Code{});
    }
    // Nothing is read outside, whatever the bytes say: the sanitizers see to that. Who needs to know whether they are
    // what was written has checksums.
    Random random(1);
    for (int round = 0; round < 2'000; ++round) {
      std::string damaged = packed;
      for (std::uint64_t n = 1 + random.below(4); n > 0; --n) {
        damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      }
      code_of(damaged);
    }
  }
}

}  // namespace
}  // namespace sluice::detail
