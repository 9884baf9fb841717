// Everything a program needs: Context and Rdd for batches, StreamingContext and DStream for streams.
#pragma once

#include "sluice/api/context.h"
#include "sluice/api/rdd.h"
#include "sluice/api/rolling_files.h"
#include "sluice/api/settings.h"
#include "sluice/api/streaming_context.h"
#include "sluice/api/supervise.h"
