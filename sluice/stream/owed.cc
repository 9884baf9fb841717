#include "sluice/stream/owed.h"

#include <cstdio>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/hash.h"
#include "sluice/stream/framed.h"

namespace sluice::detail {
namespace {

constexpr FramedKind owed_kind{0x4f434c53, 1, "an owed output"};  // "SLCO"

}  // namespace

std::string owed_file_name(const OwedOutput& owed) {
  // Identities may hold anything. The hash is one of long texts.
  const std::string text = "output " + std::string(hash_short_bytes, ' ') + owed.output;
  const std::uint64_t hash = hash_long(0, text.data(), text.size());
  char name[64];
  std::snprintf(name, sizeof name, "%015lld-%016llx", to_milliseconds(owed.time),
                static_cast<unsigned long long>(hash));
  return name;
}

std::string encode_owed(const std::string& schema, const std::vector<RestedPtr>& partitions) {
  Encoder out;
  out.text(schema);
  out.varint(partitions.size());
  for (const RestedPtr& records : partitions) records->encode_to(out);
  return put_in_frame(owed_kind, out.view());
}

OwedRecords OwedRecords::read(FileSystem& files, const std::string& path) {
  OwedRecords owed;
  owed.path_ = path;
  owed.bytes_ = read_file(files, path, ~std::uint64_t{0});
  naming_file(path, [&] {
    Decoder in(take_out_of_frame(owed_kind, owed.bytes_));
    owed.schema_ = std::string(in.text());
    owed.partition_count_ = in.count();
    owed.bytes_.erase(0, owed.bytes_.size() - in.remaining());
  });
  return owed;
}

std::vector<RestedPtr> OwedRecords::partitions(const TypeOps& type) const {
  return naming_file(path_, [&] {
    Decoder in(bytes_);
    std::vector<RestedPtr> partitions;
    for (std::uint64_t left = partition_count_; left > 0; --left) {
      partitions.push_back(RestedRecords::decode_from(in, type));
    }
    in.expect_end();
    return partitions;
  });
}

}  // namespace sluice::detail
