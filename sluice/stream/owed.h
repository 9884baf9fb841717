// Files of owed outputs: the records that an output which has failed must still be given.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/runtime/filesystem.h"
#include "sluice/stream/journal.h"

namespace sluice::detail {

/// Name of its file in the directory of owed outputs.
std::string owed_file_name(const OwedOutput& owed);

/// The file's content. `schema` is that of the records.
std::string encode_owed(const std::string& schema, const std::vector<RestedPtr>& partitions);

/// An owed output as it was read.
class OwedRecords {
 public:
  /// Errors: SLU-301, SLU-302, SLU-303, SLU-401, SLU-411 when there is no such file.
  static OwedRecords read(FileSystem& files, const std::string& path);
  const std::string& schema() const { return schema_; }
  std::uint64_t partition_count() const { return partition_count_; }
  /// Errors: SLU-301, SLU-302 when these are no records of that type.
  std::vector<RestedPtr> partitions(const TypeOps& type) const;

 private:
  std::string path_;
  std::string schema_;
  std::uint64_t partition_count_ = 0;
  std::string bytes_;
};

}  // namespace sluice::detail
