// Any bytes, read as a bucket of a shuffle (core/packed_bucket.h), as they come from an executor or a spill file: an
// error that says so, or a bucket that is the same again when it is written and read once more.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sluice/core/packed_bucket.h"
#include "sluice/core/shuffles.h"
#include "sluice/runtime/errors.h"

namespace {

using namespace sluice::detail;

struct Sum {
  std::int64_t create(std::int64_t value) const { return value; }
  void merge_value(std::int64_t& sum, std::int64_t value) const { sum += value; }
  void merge(std::int64_t& sum, std::int64_t other) const { sum += other; }
};

void read_with(const ShuffleKernel& kernel, std::string_view bytes) {
  try {
    const BucketPtr bucket = unpack_bucket(kernel, bytes);
    for (const Compression compression : {Compression::none, Compression::lz4}) {
      const std::string once = pack_bucket(kernel, *bucket, compression);
      if (pack_bucket(kernel, *unpack_bucket(kernel, once), compression) != once) std::abort();
    }
  } catch (const sluice::Error& error) {
    const auto code = error.code();
    if (code != sluice::Code::corrupt_data && code != sluice::Code::truncated_data &&
        code != sluice::Code::over_limit) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MoveKernel<std::string> lines;
  static const CombineKernel<std::string, std::int64_t, std::int64_t, Sum> sums{sluice::detail::Fn<Sum>{}};
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read_with(lines, bytes);
  read_with(sums, bytes);
  return 0;
}
